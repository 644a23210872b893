"""Links in SQL that show something of one owner to everyone who has the link. Knows nothing of what a link shows.

A link expires and can be revoked. Only a digest of the link's token is stored, so that nobody who reads the database can open a
link.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime, timedelta, timezone
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import RowMapping

from mllama_demo.errors import BadRequest, DemoError, NotFound
from mllama_demo.storage.database import Database

# The lifetimes that a menu offers.
LIFETIMES = {
    "1 hour": timedelta(hours=1),
    "1 day": timedelta(days=1),
    "1 week": timedelta(weeks=1),
    "30 days": timedelta(days=30),
    "1 year": timedelta(days=365),
}
DEFAULT_LIFETIME = "1 week"
MAX_SHARES = 100  # of one conversation or run at a time
_EXPIRED_RETENTION = timedelta(days=90)  # how long ShareGone tells that a link has expired; later it is unknown
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")


class ShareGone(DemoError):
    """The link has expired or was revoked, or what it showed was deleted."""

    status = 410


def is_token(text: str) -> bool:
    """Whether the text has the form of a link's token."""
    return _TOKEN.match(text) is not None


class ShareLinks:
    """The links of one table. Every method is one or two short transactions and may be called from any thread.

    Args:
        table: has the columns digest, owner, created, expires and revoked.
        subject: the column with the id of what a link shows.
        noun: the name of what a link shows, for error messages.
    """

    def __init__(self, database: Database, table: sql.Table, subject: sql.Column, noun: str) -> None:
        self._database, self._table, self._subject, self._noun = database, table, subject, noun

    def create(self, owner: str, id: str, lifetime: str, **values: Any) -> str:
        """Creates a link and returns its token.

        Args:
            id: of what the link shows.
            lifetime: a key of LIFETIMES.
            values: of further columns.
        Raises:
            BadRequest: there are too many links to the same thing, or the lifetime is unknown.
        """
        if lifetime not in LIFETIMES:
            raise BadRequest(f"A link can last {', '.join(LIFETIMES)}; got {str(lifetime)[:40]!r}.")
        if len(self.active(owner, id)) >= MAX_SHARES:
            raise BadRequest(f"This {self._noun} has {MAX_SHARES} links already; stop sharing it first.")
        token, now = secrets.token_urlsafe(32), self._database.now()
        values |= {"digest": _digest(token), self._subject.key: id, "owner": owner}
        values |= {"created": now, "expires": now + LIFETIMES[lifetime]}
        with self._database.transaction(write=True) as connection:
            connection.execute(sql.delete(self._table).where(self._table.c.expires < now - _EXPIRED_RETENTION))
            connection.execute(sql.insert(self._table).values(values))
        return token

    def active(self, owner: str, id: str) -> list[datetime]:
        """When each valid link expires, the last one first; UTC."""
        query = sql.select(self._table.c.expires).where(self._valid(owner, id)).order_by(self._table.c.expires.desc())
        with self._database.transaction() as connection:
            return [expires.replace(tzinfo=timezone.utc) for expires in connection.execute(query).scalars()]

    def revoke(self, owner: str, id: str) -> int:
        """Revokes all links to one thing; returns how many were valid."""
        with self._database.transaction(write=True) as connection:
            return connection.execute(sql.update(self._table).where(self._valid(owner, id)).values(revoked=True)).rowcount

    def erase(self, owner: str) -> None:
        """Deletes all links of an owner. They are unknown from then on."""
        with self._database.transaction(write=True) as connection:
            connection.execute(sql.delete(self._table).where(self._table.c.owner == owner))

    def find(self, token: str) -> RowMapping:
        """The row of a valid link. Raises ShareGone when the link is no longer valid, NotFound when it is unknown."""
        found = None
        if is_token(token):
            # The look-up compares digests, so that its duration tells nothing about the token.
            with self._database.transaction() as connection:
                query = sql.select(self._table).where(self._table.c.digest == _digest(token))
                found = connection.execute(query).mappings().one_or_none()
        if found is None:
            raise NotFound(f"There is no shared {self._noun} at this address. Perhaps a part of the link is missing.")
        if found["revoked"]:
            raise ShareGone(f"Whoever shared this {self._noun} has stopped sharing it.")
        if found["expires"] <= self._database.now():
            raise ShareGone(f"The link to this {self._noun} has expired. Ask for a new one where you got it.")
        return found

    def _valid(self, owner: str, id: str) -> sql.ColumnElement[bool]:
        c = self._table.c
        return sql.and_(c.owner == owner, self._subject == id, ~c.revoked, c.expires > self._database.now())


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("ascii")).hexdigest()
