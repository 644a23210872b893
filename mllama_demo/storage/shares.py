"""Links in SQL that show one conversation to everyone who has the link. Knows no models, HTTP or Gradio.

A link expires and can be revoked. It shows the messages that the conversation showed when the link was created: no later ones,
no other versions. Only a digest of the link's token is stored, so that nobody who reads the database can open a link.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import sqlalchemy as sql

from mllama_demo.chat.conversation import Conversation
from mllama_demo.errors import BadRequest, DemoError, NotFound
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.schema import shares as _shares

# The lifetimes that a menu offers.
LIFETIMES = {
    "1 hour": timedelta(hours=1),
    "1 day": timedelta(days=1),
    "1 week": timedelta(weeks=1),
    "30 days": timedelta(days=30),
    "1 year": timedelta(days=365),
}
DEFAULT_LIFETIME = "1 week"
MAX_SHARES = 100  # of one conversation at a time
_EXPIRED_RETENTION = timedelta(days=90)  # how long ShareGone tells that a link has expired; later it is unknown
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")


class ShareGone(DemoError):
    """The link has expired or was revoked, or its conversation was deleted."""

    status = 410


@dataclass(frozen=True)
class Share:
    """What a link shows.

    Attributes:
        digest: identifies the share, but does not open it.
        created, expires: UTC.
    """

    digest: str
    conversation: Conversation
    created: datetime
    expires: datetime


class Shares:
    """The links of all owners. Every method is one or two short transactions and may be called from any thread."""

    def __init__(self, store: ConversationStore) -> None:
        self._store, self._database = store, store.database

    def create(self, owner: str, conversation_id: str, lifetime: str) -> str:
        """Creates a link to the messages that the conversation shows now; returns the link's token.

        Args:
            lifetime: a key of LIFETIMES.
        Raises:
            NotFound: the owner has no such conversation.
            BadRequest: the conversation is empty or has too many links, or the lifetime is unknown.
        """
        if lifetime not in LIFETIMES:
            raise BadRequest(f"A link can last {', '.join(LIFETIMES)}; got {str(lifetime)[:40]!r}.")
        tree = self._store.tree(owner, conversation_id)
        shown = [siblings.number for siblings in tree.siblings(tree.conversation().messages) if siblings is not None]
        if not shown:
            raise BadRequest("This chat is empty; there is nothing to share yet.")
        if len(self.active(owner, conversation_id)) >= MAX_SHARES:
            raise BadRequest(f"This conversation has {MAX_SHARES} links already; stop sharing it first.")
        token, now = secrets.token_urlsafe(32), self._database.now()
        values = {
            "digest": _digest(token),
            "conversation_id": conversation_id,
            "owner": owner,
            "title": tree.title,
            "last": shown[-1],
            "created": now,
            "expires": now + LIFETIMES[lifetime],
        }
        with self._database.transaction(write=True) as connection:
            connection.execute(sql.delete(_shares).where(_shares.c.expires < now - _EXPIRED_RETENTION))
            connection.execute(sql.insert(_shares).values(values))
        return token

    def active(self, owner: str, conversation_id: str) -> list[datetime]:
        """When each valid link to the conversation expires, the last one first; UTC."""
        c = _shares.c
        query = sql.select(c.expires).where(c.owner == owner, c.conversation_id == conversation_id)
        query = query.where(~c.revoked, c.expires > self._database.now()).order_by(c.expires.desc())
        with self._database.transaction() as connection:
            return [expires.replace(tzinfo=timezone.utc) for expires in connection.execute(query).scalars()]

    def revoke(self, owner: str, conversation_id: str) -> int:
        """Revokes all links to the conversation; returns how many were valid."""
        c = _shares.c
        valid = sql.and_(c.owner == owner, c.conversation_id == conversation_id, ~c.revoked, c.expires > self._database.now())
        with self._database.transaction(write=True) as connection:
            return connection.execute(sql.update(_shares).where(valid).values(revoked=True)).rowcount

    def erase(self, owner: str) -> None:
        """Deletes all links of an owner. They are unknown from then on."""
        with self._database.transaction(write=True) as connection:
            connection.execute(sql.delete(_shares).where(_shares.c.owner == owner))

    def open(self, token: str) -> Share:
        """What a link shows. Raises ShareGone when it is no longer valid, NotFound when it is unknown."""
        found = None
        if _TOKEN.match(token):
            # The look-up compares digests, so that its duration tells nothing about the token.
            with self._database.transaction() as connection:
                query = sql.select(_shares).where(_shares.c.digest == _digest(token))
                found = connection.execute(query).mappings().one_or_none()
        if found is None:
            raise NotFound("There is no shared conversation at this address. Perhaps a part of the link is missing.")
        if found["revoked"]:
            raise ShareGone("Whoever shared this conversation has stopped sharing it.")
        if found["expires"] <= self._database.now():
            raise ShareGone("The link to this conversation has expired. Ask for a new one where you got it.")
        try:
            tree = self._store.tree(found["owner"], found["conversation_id"])
            conversation = tree.up_to(found["last"])
        except NotFound:
            raise ShareGone("The conversation that was shared here has been deleted.") from None
        conversation = Conversation(conversation.messages, conversation.id, found["title"])
        created, expires = (found[name].replace(tzinfo=timezone.utc) for name in ("created", "expires"))
        return Share(found["digest"], conversation, created, expires)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("ascii")).hexdigest()
