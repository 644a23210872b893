"""Passwords, sessions and attempts: what opens a session, what ends it, and how guessing is slowed."""

from __future__ import annotations

import io

import pytest
import sqlalchemy as sql

from mllama_demo.cli import main
from mllama_demo.config.loader import load_settings
from mllama_demo.config.passwords import hash_password, is_hash, verify
from mllama_demo.config.settings import Settings
from mllama_demo.errors import BadRequest, ConfigError
from mllama_demo.storage import sessions
from mllama_demo.storage.sessions import ADMIN_KEY, Attempts, Sessions, TooManyAttempts

PASSWORD = "correct horse"
HASH = hash_password(PASSWORD)
OTHER = hash_password("battery staple")


# --- passwords -----------------------------------------------------------------------------------------------------------


def test_a_password_is_known_by_its_hash_and_no_other_is():
    assert verify(PASSWORD, HASH)
    for wrong in ("", "Correct horse", PASSWORD + " ", "x" * 5000, HASH):
        assert not verify(wrong, HASH)


def test_two_hashes_of_one_password_differ_and_neither_shows_it():
    again = hash_password(PASSWORD)
    assert again != HASH
    assert verify(PASSWORD, again)
    assert PASSWORD not in again


@pytest.mark.parametrize("text", ["", "secret", "scrypt$", HASH[:-1], HASH + "A", HASH.replace("$14$", "$30$"), HASH + "\n"])
def test_what_is_no_hash_opens_nothing(text):
    """Nor does one whose parameters would take this machine's memory."""
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
def test_users_that_cannot_be_used_are_refused_without_being_shown(users):
    with pytest.raises(ConfigError) as error:
        load_settings(["--users", users], {})
    assert "hash-password" in str(error.value)
    assert PASSWORD not in str(error.value)
    assert HASH[:20] not in str(error.value)


def test_an_admin_must_be_a_user():
    with pytest.raises(ConfigError, match=r"admins has 'ben' \(from --admins on the command line\)"):
        load_settings(["--users", f"anna:{HASH}", "--admins", "anna,ben"], {})


def test_settings_do_not_print_what_is_secret():
    assert HASH not in repr(Settings(users=[f"anna:{HASH}"]))
    assert "a-secret-key" not in repr(Settings(admin_key="a-secret-key"))


# --- sessions ------------------------------------------------------------------------------------------------------------


def test_a_session_is_whose_password_opened_it_and_outlives_a_restart(database):
    token = Sessions(database, {"anna": HASH}).open("anna")
    assert Sessions(database, {"anna": HASH}).subject(token) == "anna"


def test_a_session_ends_when_the_password_changes_or_the_user_goes(database):
    token = Sessions(database, {"anna": HASH}).open("anna")
    assert Sessions(database, {"anna": OTHER}).subject(token) is None
    assert Sessions(database, {"ben": HASH}).subject(token) is None


def test_signing_out_ends_that_session_alone(database):
    known = Sessions(database, {"anna": HASH})
    here, there = known.open("anna"), known.open("anna")
    known.close(here)
    assert known.subject(here) is None
    assert known.subject(there) == "anna"


def test_a_session_ends_by_itself(database, later):
    known = Sessions(database, {"anna": HASH})
    token = known.open("anna")
    later(sessions.LIFETIME)
    assert known.subject(token) is None


@pytest.mark.parametrize("token", [None, "", "x", "A" * 43, "é" * 43, "A" * 44])
def test_a_made_up_token_is_nobodys(database, token):
    known = Sessions(database, {"anna": HASH})
    known.open("anna")
    assert known.subject(token) is None
    known.close(token)


def test_the_token_is_not_in_the_database(database):
    token = Sessions(database, {"anna": HASH}).open("anna")
    with database.transaction() as connection:
        (row,) = connection.execute(sql.text("SELECT * FROM sessions")).all()
    assert token not in map(str, row)


def test_only_the_right_name_with_the_right_password_is_known(database):
    known = Sessions(database, {"anna": HASH, ADMIN_KEY: "the key itself"})
    assert known.knows("anna", PASSWORD)
    for name, password in (("anna", "battery staple"), ("ben", PASSWORD), ("", ""), (ADMIN_KEY, "the key itself")):
        assert not known.knows(name, password)


# --- attempts ------------------------------------------------------------------------------------------------------------


def test_after_too_many_failures_even_the_right_password_waits(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(sessions.time, "monotonic", lambda: now[0])
    attempts = Attempts(limit=3, window_s=60)
    for _ in range(3):
        attempts.count("here")
        now[0] += 10
    with pytest.raises(TooManyAttempts, match="in 1 minute") as error:
        attempts.count("here")
    assert error.value.retry_s == 30
    attempts.count("elsewhere")
    now[0] += 31
    attempts.count("here")


def test_a_success_is_no_failure_and_pardons_no_other():
    attempts = Attempts(limit=2)
    for _ in range(5):
        attempts.count("here")
        attempts.take_back("here")
    attempts.count("here")
    attempts.count("here")
    with pytest.raises(TooManyAttempts):
        attempts.count("here")


def test_made_up_names_do_not_fill_the_memory():
    attempts = Attempts(limit=2, remembered=100)
    for number in range(1000):
        attempts.count(f"name {number}")
    assert len(attempts._failures) == 100
