"""What opens a session and what ends it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sql
from sqlalchemy import event

from mllama_demo.config.passwords import hash_password
from mllama_demo.errors import DatabaseUnavailable
from mllama_demo.storage import database as database_module
from mllama_demo.storage import sessions
from mllama_demo.storage.database import Database
from mllama_demo.storage.sessions import ADMIN_KEY, Sessions
from tests.support.stored_conversations import sqlite_url
from tests.support.waiting import wait_until

PASSWORD = "correct horse"
HASH = hash_password(PASSWORD)
OTHER = hash_password("battery staple")


def test_a_session_belongs_to_its_user_and_survives_a_restart(database):
    token = Sessions(database, {"anna": HASH}).open("anna")
    assert Sessions(database, {"anna": HASH}).subject(token) == "anna"


def test_a_session_ends_when_the_password_changes_or_the_user_is_removed(database):
    token = Sessions(database, {"anna": HASH}).open("anna")
    assert Sessions(database, {"anna": OTHER}).subject(token) is None
    assert Sessions(database, {"ben": HASH}).subject(token) is None


def test_signing_out_ends_only_that_session(database):
    known = Sessions(database, {"anna": HASH})
    here, there = known.open("anna"), known.open("anna")
    known.close(here)
    assert known.subject(here) is None
    assert known.subject(there) == "anna"


def test_a_session_expires(database, later):
    known = Sessions(database, {"anna": HASH})
    token = known.open("anna")
    later(sessions.LIFETIME)
    assert known.subject(token) is None


@pytest.mark.parametrize("token", [None, "", "x", "A" * 43, "é" * 43, "A" * 44])
def test_an_unknown_token_has_no_subject(database, token):
    known = Sessions(database, {"anna": HASH})
    known.open("anna")
    assert known.subject(token) is None
    known.close(token)


def test_the_token_is_not_in_the_database(database):
    token = Sessions(database, {"anna": HASH}).open("anna")
    with database.transaction() as connection:
        (row,) = connection.execute(sql.text("SELECT * FROM sessions")).all()
    assert token not in map(str, row)


@pytest.mark.slow
def test_a_password_matches_only_its_own_user(database):
    known = Sessions(database, {"anna": HASH, ADMIN_KEY: "the key itself"})
    assert known.password_matches("anna", PASSWORD)
    for name, password in (("anna", "battery staple"), ("ben", PASSWORD), ("", ""), (ADMIN_KEY, "the key itself")):
        assert not known.password_matches(name, password)


# --- while the database fails ----------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conversations.sqlite3"


@pytest.fixture
def stored(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database in a file, which is tried again soon after a failure."""
    monkeypatch.setattr(database_module, "_RETRY_S", 0.02)
    with closing(Database(sqlite_url(path))) as database:
        yield database


@contextmanager
def failing(path: Path) -> Iterator[None]:
    """The table of sessions can be neither read nor written."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("ALTER TABLE sessions RENAME TO away")
        yield
        other.execute("ALTER TABLE away RENAME TO sessions")


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as other:
        return other.execute("SELECT count(*) FROM sessions").fetchone()[0]


@pytest.mark.parametrize("began", ["before", "meanwhile"])
def test_a_session_that_is_closed_while_the_database_fails_ends_at_once_and_for_good(stored, path, began):
    known = Sessions(stored, {"anna": HASH})
    other = known.open("anna")
    token = known.open("anna")
    assert known.subject(token) == "anna"
    with failing(path):
        if began == "meanwhile":
            token = known.open("anna")
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):  # a restart would bring it back
                known.close(token)
            assert known.subject(token) is None
    wait_until(lambda: stored.failure is None, "the database answers again")
    assert known.subject(token) is None
    wait_until(lambda: not known._closing, "the session is deleted")
    assert known.subject(token) is None
    restarted = Sessions(stored, {"anna": HASH})
    assert (restarted.subject(token), restarted.subject(other)) == (None, "anna")


def test_a_session_that_was_read_just_before_it_was_closed_is_not_remembered(stored, path):
    known = Sessions(stored, {"anna": HASH})
    token, closed = known.open("anna"), []

    def close(_: sql.Connection) -> None:
        if not closed:
            closed.append(True)
            known.close(token)

    event.listen(stored._engine, "commit", close)  # of the transaction that has read the row
    assert known.subject(token) == "anna"
    assert count(path) == 0
    with failing(path), pytest.raises(DatabaseUnavailable):
        known.subject(token)


@pytest.mark.parametrize(("seconds", "subject"), [(600.0, "anna"), (0.0, None)])
def test_while_the_database_fails_a_session_goes_on_for_a_time(stored, path, monkeypatch, seconds, subject):
    """Another process may have closed it."""
    monkeypatch.setattr(sessions, "_REMEMBERED_S", seconds)
    known = Sessions(stored, {"anna": HASH})
    token = known.open("anna")
    assert known.subject(token) == "anna"
    with failing(path):
        if subject is not None:
            assert known.subject(token) == subject
        else:
            with pytest.raises(DatabaseUnavailable):
                known.subject(token)
    wait_until(lambda: stored.failure is None, "the database answers again")
    assert known.subject(token) == "anna"


def test_tokens_that_no_session_has_are_not_kept_while_the_database_fails(stored, path):
    known = Sessions(stored, {"anna": HASH})
    with failing(path):
        for number in range(3):
            with pytest.raises(DatabaseUnavailable):
                known.close(f"{number}" * 43)
    assert not known._closing
