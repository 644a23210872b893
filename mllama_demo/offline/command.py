"""The command `offline`: answers a batch of prompts with any backend. Starts no server.

Prints the answers in the format of AWS's tutorial, or writes JSON lines from which an interrupted batch can continue.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mllama_demo.config.loader import load_settings_and_log
from mllama_demo.engine.readiness import until_ready
from mllama_demo.errors import BackendUnavailable
from mllama_demo.offline import openai_batch
from mllama_demo.offline.job import BatchJob
from mllama_demo.offline.results import OrderedPrinter, Record, open_results
from mllama_demo.runtime.console import INTERRUPTED_EXIT_CODE
from mllama_demo.runtime.process import sigterm_as_interrupt

SOME_FAILED = 1


def main(options: Sequence[str], file: Path, output: Path | None, concurrency: str | None) -> int:
    """The command `offline`.

    Args:
        options: those of `serve`.
        file: the batch.
        output: the JSON lines to write or to continue; "-" prints them, None prints the answers as text.
        concurrency: whole numbers with commas; None takes those of the batch.

    Returns:
        The exit code: 0 when all is answered, 1 when some lines failed, 130 when interrupted.
    """
    settings = load_settings_and_log(options)
    if openai_batch.is_batch(file):
        job = openai_batch.read_job(file, settings, concurrency)
    else:
        from mllama_demo.offline.ask import read_job

        job = read_job(file, settings, concurrency)
    with sigterm_as_interrupt():
        if output is None or str(output) == "-":
            printer = OrderedPrinter(sys.stdout, job.keys, job.format, as_json=output is not None)
            try:
                return _run(job, printer.add)
            finally:
                printer.close()
        with open_results(output, job.format, job.keys) as results:
            job.check(output, results)
            answered = [key for key, record in results.records.items() if job.format.failure(record) is None]
            job.skip(answered)
            return _run(job, results.add, len(answered))


def _run(job: BatchJob, add: Callable[[Record], None], answered_before: int = 0) -> int:
    """Answers the batch. Returns the exit code.

    Args:
        add: receives each record.
        answered_before: number of lines that an earlier run answered.
    """
    progress = _Progress(job, answered_before, add)

    async def answer_all() -> None:
        job.backend.start()
        await until_ready(job.backend, progress.loading)
        progress.answering()
        await job.run(progress.add)

    try:
        for record in job.invalid.values():
            progress.add(record)
        if any(round_.lines for round_ in job.rounds):
            asyncio.run(answer_all())
    except KeyboardInterrupt:
        progress.end("Interrupted: ")
        return INTERRUPTED_EXIT_CODE
    except BackendUnavailable:
        progress.end()
        raise
    finally:
        job.backend.close()
    progress.end()
    return SOME_FAILED if progress.failed else 0


class _Progress:
    """Reports failed lines and a summary on stderr, and shows a progress bar if stderr is a terminal."""

    def __init__(self, job: BatchJob, answered_before: int, write: Callable[[Record], None]) -> None:
        from tqdm import tqdm

        self.failed = 0
        self._format, self._total, self._answered_before, self._write = job.format, job.size, answered_before, write
        self._answered, self._tokens = 0, 0
        self._started = time.perf_counter()
        self._bar: Any = tqdm(total=self._total, unit=" answers", file=sys.stderr, disable=None, dynamic_ncols=True)

    def loading(self, detail: str) -> None:
        self._bar.set_description(detail)

    def answering(self) -> None:
        """Starts the clock, after the model is loaded."""
        self.loading("")
        self._bar.unpause()
        self._started = time.perf_counter()

    def add(self, record: Record) -> None:
        with self._bar.external_write_mode(file=sys.stdout):  # the record may be written to the same terminal
            if (failure := self._format.failure(record)) is not None:
                self.failed += 1
                print(failure, file=sys.stderr, flush=True)
            else:
                self._answered += 1
            self._write(record)
        self._tokens += self._format.tokens(record)
        self._bar.update()

    def end(self, prefix: str = "") -> None:
        self._bar.close()
        seconds = time.perf_counter() - self._started
        before = f" ({self._answered_before} more were answered before)" if self._answered_before else ""
        speed = f" in {seconds:.1f} s, {self._tokens / seconds:.1f} tokens/s" if self._tokens else ""
        print(f"{prefix}{self._answered} of {self._total} answered{before}{speed}.", file=sys.stderr, flush=True)
