"""What opens a session and what ends it."""

from __future__ import annotations

import pytest
import sqlalchemy as sql

from mllama_demo.config.passwords import hash_password
from mllama_demo.storage import sessions
from mllama_demo.storage.sessions import ADMIN_KEY, Sessions

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


def test_a_password_matches_only_its_own_user(database):
    known = Sessions(database, {"anna": HASH, ADMIN_KEY: "the key itself"})
    assert known.password_matches("anna", PASSWORD)
    for name, password in (("anna", "battery staple"), ("ben", PASSWORD), ("", ""), (ADMIN_KEY, "the key itself")):
        assert not known.password_matches(name, password)
