"""Sessions of signed-in users in SQL, so that a restart signs nobody out. Knows no HTTP.

A session ends after LIFETIME, at sign-out, and when its user's password changes or the user leaves the configuration. Only a
digest of its token is stored.

While the database fails, the sessions that this process has seen lately go on, and new ones are kept in memory alone, until
the process ends. An operator can thus sign in and see what fails. A session that is closed meanwhile ends in this process at
once, and in the database as soon as that takes it; until then `close` reports it as not closed, because a restart brings it back.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import sqlalchemy as sql
from cachetools import LRUCache, TTLCache

from mllama_demo.config.passwords import hash_of_no_password, verify
from mllama_demo.errors import DatabaseUnavailable
from mllama_demo.storage.database import Database
from mllama_demo.storage.schema import sessions as _sessions

LIFETIME = timedelta(days=14)
ADMIN_KEY = "admin key"  # the subject of a session that was opened with admin_key; a user's name has no space
_MAX_REMEMBERED = 1000
# How long a session goes on while the database fails. Another process may have closed it.
_REMEMBERED_S = 600.0
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
        self._dummy_hash = hash_of_no_password()
        self._verifying = threading.Lock()
        # Rows by digest: those that were found in the database last, and those that it could not take.
        self._found: TTLCache[str, dict[str, Any]] = TTLCache(_MAX_REMEMBERED, _REMEMBERED_S)
        self._unstored: LRUCache[str, dict[str, Any]] = LRUCache(_MAX_REMEMBERED)
        self._closing: set[str] = set()  # digests of closed sessions whose row may be there still
        self._closed = 0  # how many closed sessions were deleted
        self._is_deleting = False  # whether a thread tries to delete those that the database did not take
        self._remembering = threading.Lock()

    def knows(self, subject: str) -> bool:
        """Whether there is such a user, or the admin key."""
        return subject in self._credentials

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
        try:
            with self._database.transaction(write=True) as connection:
                connection.execute(sql.delete(_sessions).where(_sessions.c.expires <= now))
                connection.execute(sql.insert(_sessions).values(values))
        except DatabaseUnavailable:
            with self._remembering:
                self._unstored[values["digest"]] = values
        return token

    def subject(self, token: str | None) -> str | None:
        """The subject of a session; None when the token is unknown or its session has ended.

        Raises:
            DatabaseUnavailable: the database fails, and this process has not seen the session before.
        """
        if token is None or not _TOKEN.match(token):
            return None
        found = self._find(_digest(token))
        if found is None or found["expires"] <= self._database.now():
            return None
        credential = self._credentials.get(found["subject"])
        if credential is None or _digest(credential) != found["credential"]:
            return None
        return found["subject"]

    def _find(self, digest: str) -> dict[str, Any] | None:
        with self._remembering:
            if digest in self._closing:
                return None
            if (known := self._unstored.get(digest)) is not None:
                return known
            closed_before = self._closed
        try:
            with self._database.transaction() as connection:
                found = connection.execute(sql.select(_sessions).where(_sessions.c.digest == digest)).mappings().one_or_none()
                row = None if found is None else dict(found)
        except DatabaseUnavailable:
            with self._remembering:
                if digest in self._closing:
                    return None
                known = self._found.get(digest)
            if known is None:
                raise
            return known
        with self._remembering:
            if row is None:
                self._found.pop(digest, None)
            elif closed_before == self._closed:  # else the row may have been read before it was deleted
                self._found[digest] = row
        return row

    def close(self, token: str | None) -> None:
        """Ends a session: once this returns, it is deleted. An unknown token is ignored.

        Raises:
            DatabaseUnavailable: the database could not delete the session now. A session that this process has seen has ended
                here, and is deleted as soon as the database answers, unless this process ends before.
        """
        if token is None or not _TOKEN.match(token):
            return
        digest = _digest(token)
        with self._remembering:
            is_known = digest in self._found or digest in self._unstored or digest in self._closing
            self._closing.add(digest)
            self._unstored.pop(digest, None)
        try:
            self._delete([digest])
        except DatabaseUnavailable:
            with self._remembering:
                self._found.pop(digest, None)
                if is_known:
                    begins, self._is_deleting = not self._is_deleting, True
                else:  # anybody may send tokens: only those of sessions may be kept
                    self._closing.discard(digest)
                    begins = False
            if begins:
                threading.Thread(target=self._delete_later, name="closed sessions", daemon=True).start()
            raise

    def _delete(self, digests: Sequence[str]) -> None:
        with self._database.transaction(write=True) as connection:
            connection.execute(sql.delete(_sessions).where(_sessions.c.digest.in_(digests)))
        with self._remembering:
            self._closed += 1
            self._closing.difference_update(digests)
            for digest in digests:
                self._found.pop(digest, None)

    def _delete_later(self) -> None:
        """Tries again until the sessions that were closed while the database failed are deleted."""
        while self._database.wait_to_retry():
            with self._remembering:
                digests = list(self._closing)
                self._is_deleting = bool(digests)
            if not digests:
                return
            with suppress(DatabaseUnavailable):
                self._delete(digests)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
