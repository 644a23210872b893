"""Ratings of answers in SQL: good or bad, with an optional note; and all ratings as CSV for the operator.

The texts of questions and answers are read from the conversation. Once it is deleted, a rating has no texts. Knows no models,
HTTP or Gradio.
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

from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.schema import feedback as _feedback

MAX_NOTE_LENGTH = 2000

COLUMNS = ("given", "rating", "note", "model", "sampling", "question", "answer", "conversation", "message", "user")


@dataclass(frozen=True)
class Rating:
    """One user's rating of one answer.

    Attributes:
        given: UTC.
        model: the name of the model that answered.
        sampling: the sampling parameters of the answer.
        question, answer: their texts; None once the conversation is deleted.
        message: the answer's number in the message tree.
        user: the name of a signed-in user, otherwise None.
    """

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
    """The ratings of all owners, at most one for each answer. Safe to use from several threads."""

    def __init__(self, store: ConversationStore) -> None:
        self._store, self._database = store, store.database

    def rate(self, owner: str, conversation_id: str, message: int, good: bool | None, model: str) -> None:
        """Stores or replaces the rating of an answer. A note that was added before stays.

        Args:
            good: None deletes the rating.
        Raises:
            NotFound: the owner has no such conversation.
            BadRequest: the message is no answer.
        """
        nodes = self._store.tree(owner, conversation_id).nodes
        answer = next((node.message for node in nodes if node.number == message), None)
        if answer is None or answer.role != "assistant":
            raise BadRequest("Only an answer can be rated.")
        sampling = answer.metadata.get("sampling") or {}
        with self._database.transaction(write=True) as connection:
            this = _at(conversation_id, message)
            if good is None:
                connection.execute(sql.delete(_feedback).where(this))
                return
            values = {"good": good, "model": model, "sampling": sampling, "given": self._database.now()}
            if connection.execute(sql.update(_feedback).where(this).values(values)).rowcount == 0:
                key = {"conversation_id": conversation_id, "message": message, "owner": owner, "note": ""}
                connection.execute(sql.insert(_feedback).values(key | values))

    def add_note(self, owner: str, conversation_id: str, message: int, note: str) -> None:
        """Adds a note of at most 2000 characters to a rating. Raises NotFound when the owner has not rated the answer."""
        note = note.strip()
        if len(note) > MAX_NOTE_LENGTH:
            raise BadRequest(f"A note takes at most {MAX_NOTE_LENGTH} characters, this one has {len(note)}.")
        with self._database.transaction(write=True) as connection:
            this = sql.and_(_at(conversation_id, message), _feedback.c.owner == owner)
            if connection.execute(sql.update(_feedback).where(this).values(note=note, given=self._database.now())).rowcount == 0:
                raise NotFound("There is no thumb that this note would belong to; choose one first.")

    def erase(self, owner: str) -> None:
        """Deletes all ratings of an owner."""
        with self._database.transaction(write=True) as connection:
            connection.execute(sql.delete(_feedback).where(_feedback.c.owner == owner))

    def ratings(self, owner: str, conversation_id: str) -> dict[int, bool]:
        """The owner's ratings in a conversation: whether each answer is good, by its number in the message tree."""
        c = _feedback.c
        query = sql.select(c.message, c.good).where(c.owner == owner, c.conversation_id == conversation_id)
        with self._database.transaction() as connection:
            return {row.message: bool(row.good) for row in connection.execute(query)}

    def counts(self) -> tuple[int, int]:
        """The numbers of good and of bad ratings."""
        with self._database.transaction() as connection:
            rows = connection.execute(sql.select(_feedback.c.good, sql.func.count()).group_by(_feedback.c.good)).all()
        found = {bool(good): count for good, count in rows}
        return found.get(True, 0), found.get(False, 0)

    def latest(self, limit: int | None = None) -> Iterator[Rating]:
        """The ratings of all owners, the newest first; None for no limit."""
        query = sql.select(_feedback).order_by(_feedback.c.given.desc(), _feedback.c.conversation_id, _feedback.c.message)
        with self._database.transaction() as connection:
            rows = connection.execute(query if limit is None else query.limit(limit)).mappings().all()
        for row in rows:
            question, answer = self._texts(row["owner"], row["conversation_id"], row["message"])
            yield Rating(
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

    def _texts(self, owner: str, conversation_id: str, message: int) -> tuple[str | None, str | None]:
        """The texts of a question and its answer; None when they were deleted."""
        try:
            *earlier, answer = self._store.tree(owner, conversation_id).up_to(message).messages
        except NotFound:
            return None, None
        return earlier[-1].text if earlier else None, answer.text


def to_csv(ratings: Iterator[Rating]) -> Iterator[str]:
    """The lines of a CSV file (RFC 4180), the header first. A byte order mark tells spreadsheets that it is UTF-8."""
    yield "\ufeff" + _line(COLUMNS)
    for one in ratings:
        sampling = json.dumps(one.sampling, ensure_ascii=False) if one.sampling else ""
        given, rating = one.given.strftime("%Y-%m-%dT%H:%M:%SZ"), "good" if one.good else "bad"
        texts = (one.question or "", one.answer or "")
        yield _line((given, rating, one.note, one.model, sampling, *texts, one.conversation_id, one.message, one.user or ""))


def _line(cells: tuple[Any, ...]) -> str:
    file = io.StringIO()
    csv.writer(file).writerow([_without_formula(str(cell)) for cell in cells])
    return file.getvalue()


def _without_formula(cell: str) -> str:
    """Quotes what a spreadsheet would run as a formula."""
    return "'" + cell if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _at(conversation_id: str, message: int) -> Any:
    return sql.and_(_feedback.c.conversation_id == conversation_id, _feedback.c.message == message)
