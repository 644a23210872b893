"""What visitors think of answers: thumbs with an optional note, stored in SQL, and as CSV for the operator.

The texts stay in the conversation alone: once it is deleted, its feedback says what was thought and of which model, no more.
Knows no models, HTTP or Gradio.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sql

from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.schema import feedback as _feedback

MAX_NOTE_LENGTH = 2000

COLUMNS = ("given", "rating", "note", "model", "sampling", "question", "answer", "conversation", "message", "user")


@dataclass(frozen=True)
class Opinion:
    """One thumb. given: UTC. sampling: the values the answer was drawn with. question, answer: None once deleted. user: who
    gave it where people sign in, else None."""

    given: datetime
    good: bool
    note: str
    model: str
    sampling: dict[str, Any]
    question: str | None
    answer: str | None
    conversation_id: str
    message: int
    user: str | None


class Feedback:
    """The feedback of all visitors; one opinion for each answer. Safe to use from several threads."""

    def __init__(self, store: ConversationStore) -> None:
        self._store, self._database = store, store.database

    def rate(self, owner: str, conversation_id: str, message: int, good: bool | None, model: str) -> None:
        """Keeps a thumb for one answer in place of the one before, whose note stays; None takes it back.

        Raises NotFound for another owner's conversation, BadRequest when the message is no answer.
        """
        sampling = self._answer(owner, conversation_id, message).get("sampling") or {}
        with self._database.transaction(write=True) as connection:
            here = _at(conversation_id, message)
            if good is None:
                connection.execute(sql.delete(_feedback).where(here))
                return
            values = {"good": good, "model": model, "sampling": sampling, "given": self._database.now()}
            if connection.execute(sql.update(_feedback).where(here).values(values)).rowcount == 0:
                key = {"conversation_id": conversation_id, "message": message, "owner": owner, "note": ""}
                connection.execute(sql.insert(_feedback).values(key | values))

    def note(self, owner: str, conversation_id: str, message: int, note: str) -> None:
        """Adds words to a thumb, at most 2000 characters. Raises NotFound where there is no thumb of this owner."""
        note = note.strip()
        if len(note) > MAX_NOTE_LENGTH:
            raise BadRequest(f"A note takes at most {MAX_NOTE_LENGTH} characters, this one has {len(note)}.")
        with self._database.transaction(write=True) as connection:
            mine = sql.and_(_at(conversation_id, message), _feedback.c.owner == owner)
            if connection.execute(sql.update(_feedback).where(mine).values(note=note, given=self._database.now())).rowcount == 0:
                raise NotFound("There is no thumb that this note would belong to; choose one first.")

    def erase(self, owner: str) -> None:
        """Removes all of the owner's thumbs and notes."""
        with self._database.transaction(write=True) as connection:
            connection.execute(sql.delete(_feedback).where(_feedback.c.owner == owner))

    def of(self, owner: str, conversation_id: str) -> dict[int, bool]:
        """The owner's thumbs in a conversation: for the numbers of answers, whether they were found good."""
        c = _feedback.c
        query = sql.select(c.message, c.good).where(c.owner == owner, c.conversation_id == conversation_id)
        with self._database.transaction() as connection:
            return {row.message: bool(row.good) for row in connection.execute(query)}

    def counts(self) -> tuple[int, int]:
        """How many thumbs are up and how many down."""
        with self._database.transaction() as connection:
            rows = connection.execute(sql.select(_feedback.c.good, sql.func.count()).group_by(_feedback.c.good)).all()
        found = {bool(good): count for good, count in rows}
        return found.get(True, 0), found.get(False, 0)

    def latest(self, limit: int | None = None) -> Iterator[Opinion]:
        """Opinions of everybody, the newest first. limit: None for all."""
        query = sql.select(_feedback).order_by(_feedback.c.given.desc(), _feedback.c.conversation_id, _feedback.c.message)
        with self._database.transaction() as connection:
            rows = connection.execute(query if limit is None else query.limit(limit)).mappings().all()
        for row in rows:
            question, answer = self._texts(row["owner"], row["conversation_id"], row["message"])
            yield Opinion(
                given=row["given"].replace(tzinfo=timezone.utc),
                good=bool(row["good"]),
                note=row["note"],
                model=row["model"],
                sampling=row["sampling"],
                question=question,
                answer=answer,
                conversation_id=row["conversation_id"],
                message=row["message"],
                user=row["owner"].removeprefix("user:") if row["owner"].startswith("user:") else None,
            )

    def _answer(self, owner: str, conversation_id: str, message: int) -> dict[str, Any]:
        """The figures kept with an answer."""
        node = _node(self._store.tree(owner, conversation_id), message)
        if node is None or node.message.role != "assistant":
            raise BadRequest("Only an answer can be rated.")
        return node.message.metadata

    def _texts(self, owner: str, conversation_id: str, message: int) -> tuple[str | None, str | None]:
        try:
            tree = self._store.tree(owner, conversation_id)
        except NotFound:
            return None, None
        node = _node(tree, message)
        asked = _node(tree, node.parent) if node is not None and node.parent is not None else None
        return asked.message.text if asked else None, node.message.text if node else None


def to_csv(opinions: Iterator[Opinion]) -> Iterator[str]:
    """Lines of a CSV file (RFC 4180, UTF-8 with a mark, as spreadsheets like it), the header first."""
    yield "\ufeff" + _line(COLUMNS)
    for one in opinions:
        sampling = json.dumps(one.sampling, ensure_ascii=False) if one.sampling else ""
        given, rating = one.given.strftime("%Y-%m-%dT%H:%M:%SZ"), "good" if one.good else "bad"
        texts = (one.question or "", one.answer or "")
        yield _line((given, rating, one.note, one.model, sampling, *texts, one.conversation_id, one.message, one.user or ""))


def _line(cells: tuple[Any, ...]) -> str:
    file = io.StringIO()
    csv.writer(file).writerow([_harmless(str(cell)) for cell in cells])
    return file.getvalue()


def _harmless(cell: str) -> str:
    """A spreadsheet takes what begins like this for a formula, and would run what a visitor wrote."""
    return "'" + cell if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _node(tree: MessageTree, number: int | None) -> Any:
    return next((node for node in tree.nodes if node.number == number), None)


def _at(conversation_id: str, message: int) -> Any:
    return sql.and_(_feedback.c.conversation_id == conversation_id, _feedback.c.message == message)
