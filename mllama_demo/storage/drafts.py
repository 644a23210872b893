"""What answers under way have so far, in the database of a ConversationStore: a program that is killed takes no answer with it.

Each draft is written anew every moment while its program lives. One that no longer is belongs to nobody, and becomes the answer
it was going to be, cut off. Knows no models, HTTP or Gradio.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta

import sqlalchemy as sql

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.errors import NotFound
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.schema import drafts as _drafts

BEAT_S = 1.0
LIFETIME = timedelta(seconds=4 * BEAT_S)


class Drafts:
    """The drafts of all visitors, at most one for a conversation. Every method may be called from any thread."""

    def __init__(self, store: ConversationStore) -> None:
        self._store, self._database = store, store.database

    def put(self, owner: str, conversation: Conversation, message: Message) -> None:
        """The answer to a stored conversation's last question as it is now; to be said again within LIFETIME."""
        values = {
            "owner": owner,
            "messages": len(conversation.messages),
            "text": message.text,
            "facts": message.metadata,
            "beat": self._database.now(),
        }
        this = _drafts.c.conversation_id == conversation.id
        with self._database.transaction(write=True) as connection:
            if not connection.execute(sql.update(_drafts).where(this).values(values)).rowcount:
                connection.execute(sql.insert(_drafts).values(conversation_id=conversation.id, **values))

    def drop(self, conversation_id: str) -> None:
        """The answer is stored, or shall not be."""
        with self._database.transaction(write=True) as connection:
            connection.execute(sql.delete(_drafts).where(_drafts.c.conversation_id == conversation_id))

    def erase(self, owner: str) -> None:
        """Removes all of the owner's."""
        with self._database.transaction(write=True) as connection:
            connection.execute(sql.delete(_drafts).where(_drafts.c.owner == owner))

    def adopt(self, owner: str, alive: Collection[str] = ()) -> None:
        """Keeps the owner's answers whose program is gone, each as an answer cut off. alive: conversations to leave alone."""
        for id, messages, draft in list(self._orphans(owner)):
            if id in alive:
                continue
            try:
                conversation = self._store.load(owner, id)
                if len(conversation.messages) == messages and conversation.messages[-1].role == "user":
                    self._store.save(owner, conversation.add(draft))
            except NotFound:  # deleted meanwhile
                pass
            self.drop(id)

    def _orphans(self, owner: str) -> Iterator[tuple[str, int, Message]]:
        query = sql.select(_drafts).where(_drafts.c.owner == owner, _drafts.c.beat < self._database.now() - LIFETIME)
        with self._database.transaction() as connection:
            for row in connection.execute(query).mappings():
                draft = Message("assistant", row["text"], metadata={**row["facts"], "reason": "cut_off"})
                yield row["conversation_id"], row["messages"], draft
