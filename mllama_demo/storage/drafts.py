"""Drafts of answers that are being generated, in SQL, so that a crash does not lose their text. Knows no models and no HTTP.

Drafts are refreshed every second. A draft that was not refreshed for LIFETIME was left by a crashed process; `recover` saves it
as a truncated answer. So was a draft of the future: the clock was set back since.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import sqlalchemy as sql

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.errors import NotFound
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.schema import drafts as _drafts

REFRESH_INTERVAL_S = 1.0
# Longer than a busy database keeps a writer waiting, and than the clocks of two machines differ.
LIFETIME = timedelta(seconds=15)


class Drafts:
    """The drafts of all owners, at most one for each conversation. Every method may be called from any thread."""

    def __init__(self, store: ConversationStore) -> None:
        self._store, self._database = store, store.database

    def put(self, owner: str, conversation: Conversation, answer: Message) -> None:
        """Stores or refreshes the draft of the answer to a stored conversation's last question."""
        values = {
            "owner": owner,
            "messages": len(conversation.messages),
            "text": answer.text,
            "metadata": answer.metadata,
            "refreshed": self._database.now(),
        }
        this = _drafts.c.conversation_id == conversation.id
        with self._database.transaction(write=True) as connection:
            if not connection.execute(sql.update(_drafts).where(this).values(values)).rowcount:
                connection.execute(sql.insert(_drafts).values(conversation_id=conversation.id, **values))

    def delete(self, conversation_id: str) -> None:
        """Deletes a draft, because its answer is stored or was discarded."""
        with self._database.transaction(write=True) as connection:
            connection.execute(sql.delete(_drafts).where(_drafts.c.conversation_id == conversation_id))

    def erase(self, owner: str) -> None:
        """Deletes all drafts of an owner."""
        with self._database.transaction(write=True) as connection:
            connection.execute(sql.delete(_drafts).where(_drafts.c.owner == owner))

    def get(self, owner: str, conversation_id: str) -> tuple[Message, bool] | None:
        """The draft of a conversation's answer, and whether it has expired; None where there is no draft."""
        query = sql.select(_drafts).where(_drafts.c.owner == owner, _drafts.c.conversation_id == conversation_id)
        with self._database.transaction() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            return None
        expired = abs(row["refreshed"] - self._database.now()) > LIFETIME
        return Message("assistant", row["text"], metadata=row["metadata"]), expired

    def recover(self, owner: str, active: Collection[str] = ()) -> None:
        """Saves the owner's expired drafts as truncated answers, unless their conversation has changed since.

        Args:
            active: ids of conversations to skip, because this process generates their answers.
        """
        for id, length, draft in self._expired(owner):
            if id in active:
                continue
            try:
                conversation = self._store.load(owner, id)
                if len(conversation.messages) == length and conversation.messages[-1].role == "user":
                    self._store.save(owner, conversation.add(draft))
            except NotFound:  # the conversation was deleted
                pass
            self.delete(id)

    def _expired(self, owner: str) -> list[tuple[str, int, Message]]:
        """The id and the length of each conversation with an expired draft, and the draft."""
        now, refreshed = self._database.now(), _drafts.c.refreshed
        is_expired = sql.or_(refreshed < now - LIFETIME, refreshed > now + LIFETIME)
        query = sql.select(_drafts).where(_drafts.c.owner == owner, is_expired)
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            (
                row["conversation_id"],
                row["messages"],
                Message("assistant", row["text"], metadata={"reason": "cut_off", **row["metadata"]}),
            )
            for row in rows
        ]
