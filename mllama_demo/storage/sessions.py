"""Sessions of signed-in users in SQL, so that a restart signs nobody out. Knows no HTTP.

A session ends after LIFETIME, at sign-out, and when its user's password changes or the user leaves the configuration. Only a
digest of its token is stored.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Mapping
from datetime import timedelta

import sqlalchemy as sql

from mllama_demo.config.passwords import hash_password, verify
from mllama_demo.storage.database import Database
from mllama_demo.storage.schema import sessions as _sessions

LIFETIME = timedelta(days=14)
ADMIN_KEY = "admin key"  # the subject of a session that was opened with admin_key; a user's name has no space
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")


class Sessions:
    """The sessions of all users. Safe to use from several threads.

    Args:
        credentials: for each subject (a user's name, or ADMIN_KEY) its password hash, or the key. A session is valid as long
            as the credential that it was opened with is still the subject's.
    """

    def __init__(self, database: Database, credentials: Mapping[str, str]) -> None:
        self._database = database
        self._credentials = dict(credentials)
        self._dummy_hash = hash_password(secrets.token_urlsafe(16))
        self._verifying = threading.Lock()

    def password_matches(self, name: str, password: str) -> bool:
        """Whether the password is this user's. Takes the same time for a name that no user has."""
        hashed = self._credentials.get(name) if name != ADMIN_KEY else None
        with self._verifying:  # one at a time: each takes 16 MiB of memory and a core
            matches = verify(password, hashed or self._dummy_hash)
        return matches and hashed is not None

    def open(self, subject: str) -> str:
        """Opens a session of one of the subjects; returns its token."""
        token, now = secrets.token_urlsafe(32), self._database.now()
        values = {
            "digest": _digest(token),
            "subject": subject,
            "credential": _digest(self._credentials[subject]),
            "expires": now + LIFETIME,
        }
        with self._database.transaction(write=True) as connection:
            connection.execute(sql.delete(_sessions).where(_sessions.c.expires <= now))
            connection.execute(sql.insert(_sessions).values(values))
        return token

    def subject(self, token: str | None) -> str | None:
        """The subject of a session; None when the token is unknown or its session has ended."""
        if token is None or not _TOKEN.match(token):
            return None
        with self._database.transaction() as connection:
            found = connection.execute(sql.select(_sessions).where(_sessions.c.digest == _digest(token))).mappings().one_or_none()
        if found is None or found["expires"] <= self._database.now():
            return None
        credential = self._credentials.get(found["subject"])
        if credential is None or _digest(credential) != found["credential"]:
            return None
        return found["subject"]

    def close(self, token: str | None) -> None:
        """Ends a session. An unknown token is ignored."""
        if token is not None and _TOKEN.match(token):
            with self._database.transaction(write=True) as connection:
                connection.execute(sql.delete(_sessions).where(_sessions.c.digest == _digest(token)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
