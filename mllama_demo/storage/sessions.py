"""Who is signed in, in the database of a ConversationStore, so that a restart signs nobody out; and who has tried too often.

A session ends by itself, at sign-out, and when its user's password changes or the user leaves the configuration. Only a digest
of its token is stored. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import timedelta

import sqlalchemy as sql

from mllama_demo.config.passwords import hash_password, verify
from mllama_demo.errors import DemoError
from mllama_demo.storage.database import Database
from mllama_demo.storage.schema import sessions as _sessions

LIFETIME = timedelta(days=14)
# The subject of a session that was opened with admin_key; no user's name has a space.
ADMIN_KEY = "admin key"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")


class TooManyAttempts(DemoError):
    """Wrong passwords came too often; message and retry_s say when to try again."""

    status = 429

    def __init__(self, retry_s: float) -> None:
        self.retry_s = max(1, round(retry_s))
        minutes = -(-self.retry_s // 60)
        super().__init__(f"Too many wrong attempts. Please try again in {minutes} minute{'' if minutes == 1 else 's'}.")


class Attempts:
    """Counts failures for each key: at most `limit` in `window_s` seconds. Safe to use from several threads."""

    def __init__(self, limit: int, window_s: float = 600, remembered: int = 10_000) -> None:
        self._limit, self._window_s, self._remembered = limit, window_s, remembered
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, key: str) -> None:
        """One more failure, to be taken back if it is none. Raises TooManyAttempts, and counts nothing, after too many."""
        now = time.monotonic()
        with self._lock:
            recent = [moment for moment in self._failures.get(key, ()) if now - moment < self._window_s]
            if len(recent) >= self._limit:
                raise TooManyAttempts(recent[0] + self._window_s - now)
            self._failures[key] = [*recent, now]
            self._failures.move_to_end(key)
            while len(self._failures) > self._remembered:  # somebody makes up names
                self._failures.popitem(last=False)

    def take_back(self, key: str) -> None:
        """The last one was no failure. The others stay: who owns one account may still be guessing at another's."""
        with self._lock:
            if self._failures.get(key):
                self._failures[key].pop()


class Sessions:
    """credentials: for each subject (a user's name, or ADMIN_KEY) what its sessions depend on: the hash of the password, the
    key. Safe to use from several threads."""

    def __init__(self, database: Database, credentials: Mapping[str, str]) -> None:
        self._database = database
        self._credentials = dict(credentials)
        self._nobody = hash_password(secrets.token_urlsafe(16))
        self._one_at_a_time = threading.Lock()

    def knows(self, name: str, password: str) -> bool:
        """Whether the password is this user's; takes as long for a name that nobody has."""
        hashed = self._credentials.get(name) if name != ADMIN_KEY else None
        with self._one_at_a_time:  # each takes 16 MiB and a core
            right = verify(password, hashed or self._nobody)
        return right and hashed is not None

    def open(self, subject: str) -> str:
        """The token of a new session of one of the subjects."""
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
        """Whose session it is; None for one that is unknown or over."""
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
        """Signs out."""
        if token is not None and _TOKEN.match(token):
            with self._database.transaction(write=True) as connection:
                connection.execute(sql.delete(_sessions).where(_sessions.c.digest == _digest(token)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
