"""A batch of any format, ready to be answered: its lines in rounds, and the function that answers one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama_demo.engine.base import StartedBackend
from mllama_demo.offline.results import Key, Record, RecordFormat, Results


@dataclass(frozen=True)
class Round:
    """Lines to ask, by key, and how many of them at the same time; None is one for each slot."""

    lines: dict[Any, Any]
    concurrency: int | None


@dataclass(frozen=True)
class BatchJob:
    """A batch.

    Attributes:
        keys: Of all lines, in the order of the results.
        invalid: The records of the lines that cannot be asked.
        answer: Returns the record of one line, also of one that fails. Raises BackendUnavailable.
        check: Raises ConfigError when the answers in the results at this path are answers to something else.
    """

    backend: StartedBackend
    format: RecordFormat
    keys: Sequence[Key]
    invalid: dict[Key, Record]
    rounds: Sequence[Round]
    answer: Callable[[Any, Any], Awaitable[Record]]
    check: Callable[[Path, Results], None] = lambda path, results: None

    def skip(self, keys: Sequence[Key]) -> None:
        """Leaves out lines that are answered already."""
        for round_ in self.rounds:
            for key in keys:
                round_.lines.pop(key, None)

    @property
    def size(self) -> int:
        """How many lines are to be answered or refused."""
        return len(self.invalid) + sum(len(round_.lines) for round_ in self.rounds)

    async def run(self, on_record: Callable[[Record], None]) -> None:
        """Answers the lines, round by round. The backend is ready.

        Raises:
            BackendUnavailable: the backend is down, so that the other lines would fail too.
        """
        for round_ in self.rounds:
            waiting = iter(round_.lines.items())

            async def work(waiting=waiting) -> None:
                for key, line in waiting:  # the workers share one iterator
                    on_record(await self.answer(key, line))

            workers = [asyncio.create_task(work()) for _ in range(round_.concurrency or self.backend.info.slots)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
