"""The lengths of stored prompts and answers, of all owners: numbers only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sql
from sqlalchemy.engine import URL

from mllama_demo.storage.read_only import read_only_connection
from mllama_demo.storage.schema import messages as _messages

_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class AnswerLength:
    """The tokens of one stored answer and of its prompt.

    Attributes:
        estimated: A remote server did not report the counts.
    """

    prompt: int
    answer: int
    estimated: bool


def answer_lengths(url: URL) -> list[AnswerLength]:
    """The lengths of every stored answer, also of versions that are not shown. Answers without counts are left out.

    The database may be of an earlier or later version of the schema, because all versions have the columns that are read here.

    Raises:
        ConfigError: The database cannot be read.
    """
    found = []
    with read_only_connection(url) as connection:
        wanted = sql.select(_messages.c.metadata).where(_messages.c.role == "assistant")
        for (metadata,) in connection.execute(wanted.execution_options(yield_per=_ROWS_AT_ONCE)):
            prompt = metadata.get("prompt_tokens") if isinstance(metadata, dict) and not metadata.get("imported") else None
            if isinstance(prompt, int) and prompt > 0:
                found.append(AnswerLength(prompt, metadata.get("completion_tokens") or 0, bool(metadata.get("estimated"))))
    return found
