"""Passwords and their hashes, and the options that take them."""

from __future__ import annotations

import io

import pytest

from mllama_demo.cli import main
from mllama_demo.config.loader import load_settings
from mllama_demo.config.passwords import hash_of_no_password, hash_password, is_hash, verify
from mllama_demo.config.settings import Settings
from mllama_demo.errors import BadRequest, ConfigError

PASSWORD = "correct horse"
# Written out, because the ids of the tests below must be the same in every process of a parallel run.
HASH = "scrypt$14$8$5$9WFVCJFQE1EByqKpG0t_og$l-dmjysEYxjA8L0czSgbIIaXOdEt223abzxRpUNsOGY"
OTHER = hash_password("battery staple")


@pytest.mark.slow
def test_only_the_right_password_verifies_against_a_hash():
    assert verify(PASSWORD, HASH)
    for wrong in ("", "Correct horse", PASSWORD + " ", "x" * 5000, HASH):
        assert not verify(wrong, HASH)


def test_two_hashes_of_one_password_differ_and_do_not_contain_it():
    again = hash_password(PASSWORD)
    assert again != HASH
    assert verify(PASSWORD, again)
    assert PASSWORD not in again


@pytest.mark.parametrize("text", ["", "secret", "scrypt$", HASH[:-1], HASH + "A", HASH.replace("$14$", "$30$"), HASH + "\n"])
def test_a_malformed_hash_verifies_no_password(text):
    """A hash with a cost of 2**30 is refused too: checking it would take all memory of this machine."""
    assert not is_hash(text)
    assert not verify(PASSWORD, text)


@pytest.mark.parametrize("password", ["", "short", "x" * 1001])
def test_a_password_that_is_too_short_or_too_long_is_refused(password):
    with pytest.raises(BadRequest, match="8 to 1000 characters"):
        hash_password(password)


def test_hash_password_prints_an_entry_that_the_option_takes(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(PASSWORD + "\n"))
    assert main(["hash-password", "anna"]) == 0
    entry = capsys.readouterr().out.strip()
    assert PASSWORD not in entry
    (kept,) = load_settings(["--users", entry], {}).users or []
    assert verify(PASSWORD, kept.removeprefix("anna:"))


@pytest.mark.parametrize("name", ["", "an na", "a:b", "a,b", "x" * 65])
def test_hash_password_refuses_a_name_that_the_option_could_not_take(name, capsys):
    assert main(["hash-password", name]) == 2
    assert "user's name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "users", ["anna", f"anna:{PASSWORD}", f"anna:{HASH},anna:{OTHER}", f"an na:{HASH}", f":{HASH}", f"anna:{HASH}x"]
)
def test_malformed_users_are_refused_and_the_error_shows_no_password_and_no_hash(users):
    with pytest.raises(ConfigError) as error:
        load_settings(["--users", users], {})
    assert "hash-password" in str(error.value)
    assert PASSWORD not in str(error.value)
    assert HASH[:20] not in str(error.value)


def test_an_admin_who_is_not_a_user_is_refused():
    with pytest.raises(ConfigError, match=r"admins has 'ben' \(from --admins on the command line\)"):
        load_settings(["--users", f"anna:{HASH}", "--admins", "anna,ben"], {})


def test_the_repr_of_settings_shows_no_hash_and_no_admin_key():
    assert HASH not in repr(Settings(users=[f"anna:{HASH}"]))
    assert "a-secret-key" not in repr(Settings(admin_key="a-secret-key"))


def test_the_hash_of_no_password_costs_as_much_to_verify_as_another():
    one, other = hash_of_no_password(), hash_of_no_password()
    assert is_hash(one)
    assert one.split("$")[:4] == hash_password("correct horse").split("$")[:4], "the parameters of scrypt"
    assert one != other
    assert not verify("correct horse", one)
