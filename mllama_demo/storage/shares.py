"""Links in SQL that show one conversation to everyone who has the link. Knows no models, HTTP or Gradio.

A link shows the messages that the conversation showed when the link was created: no later ones, no other versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from mllama_demo.chat.conversation import Conversation
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.schema import shares as _shares
from mllama_demo.storage.share_links import DEFAULT_LIFETIME, LIFETIMES, MAX_SHARES, ShareGone, ShareLinks

__all__ = ["DEFAULT_LIFETIME", "LIFETIMES", "MAX_SHARES", "Share", "ShareGone", "Shares"]


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
        self._store = store
        self._links = ShareLinks(store.database, _shares, _shares.c.conversation_id, "conversation")
        self.active, self.revoke, self.erase = self._links.active, self._links.revoke, self._links.erase

    def create(self, owner: str, conversation_id: str, lifetime: str) -> str:
        """Creates a link to the messages that the conversation shows now; returns the link's token.

        Args:
            lifetime: a key of LIFETIMES.
        Raises:
            NotFound: the owner has no such conversation.
            BadRequest: the conversation is empty or has too many links, or the lifetime is unknown.
        """
        tree = self._store.tree(owner, conversation_id)
        shown = [siblings.number for siblings in tree.siblings(tree.conversation().messages) if siblings is not None]
        if not shown:
            raise BadRequest("This chat is empty; there is nothing to share yet.")
        return self._links.create(owner, conversation_id, lifetime, title=tree.title, last=shown[-1])

    def open(self, token: str) -> Share:
        """What a link shows. Raises ShareGone when it is no longer valid, NotFound when it is unknown."""
        found = self._links.find(token)
        try:
            tree = self._store.tree(found["owner"], found["conversation_id"])
            conversation = tree.up_to(found["last"])
        except NotFound:
            raise ShareGone("The conversation that was shared here has been deleted.") from None
        conversation = Conversation(conversation.messages, conversation.id, found["title"])
        created, expires = (found[name].replace(tzinfo=timezone.utc) for name in ("created", "expires"))
        return Share(found["digest"], conversation, created, expires)
