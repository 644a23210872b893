"""The command `offline`: answers a batch of prompts with any backend. Starts no server.

Prints the answers in the format of AWS's tutorial, or writes JSON lines from which an interrupted batch can continue.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllama_demo.config.loader import load_settings
from mllama_demo.engine.readiness import until_ready
from mllama_demo.errors import BackendUnavailable
from mllama_demo.images.sources import file_digest
from mllama_demo.offline.batch import InvalidLine, Question, check_concurrency, read_batch
from mllama_demo.offline.results import Key, OrderedPrinter, Record, check_same_batch, failed, open_results
from mllama_demo.runtime.console import set_up_logging
from mllama_demo.runtime.process import sigterm_as_interrupt

if TYPE_CHECKING:
    from mllama_demo.offline.ask import BatchRunner

SOME_FAILED = 1
INTERRUPTED = 130  # the exit code of shells for Ctrl-C


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
    set_up_logging()
    settings = load_settings(options)
    batch = read_batch(file, settings.sampling)
    given = check_concurrency(_numbers(concurrency), "--concurrency") if concurrency else batch.concurrency
    from mllama_demo.backends import make_backend
    from mllama_demo.offline.ask import BatchRunner

    backend, tokenizer = make_backend(settings)
    runner = BatchRunner(backend, tokenizer, settings, file.parent)
    rounds = list(enumerate(given or (None,), start=1))
    # Each round asks all questions. An invalid line is reported in the first round only.
    lines = {(n, line.line): line for n, _ in rounds for line in batch.lines if n == 1 or isinstance(line, Question)}
    with sigterm_as_interrupt():
        if output is None or str(output) == "-":
            printer = OrderedPrinter(sys.stdout, list(lines), as_json=output is not None)
            try:
                return _run(runner, lines, rounds, printer.add)
            finally:
                printer.close()
        with open_results(output) as results:
            check_same_batch(output, results, {key: _empty_record(runner, line, key[0]) for key, line in lines.items()})
            answered = [key for key, record in results.records.items() if not failed(record)]
            for key in answered:
                del lines[key]
            return _run(runner, lines, rounds, results.add, len(answered))


def _empty_record(runner: BatchRunner, line: Question | InvalidLine, round_: int) -> Record:
    """The record to compare an earlier one with, as far as it is known before the backend is started."""
    record = runner.empty_record(line, round_)
    if runner.settings.backend == "openai":  # the server's model is known only after the first connection
        record["model"] = runner.settings.remote_model
    if record["image"] is not None:
        record["image"]["digest"] = file_digest(record["image"]["source"], runner.folder)
    return record


def _run(
    runner: BatchRunner,
    lines: dict[Key, Question | InvalidLine],
    rounds: Sequence[tuple[int, int | None]],
    add: Callable[[Record], None],
    answered_before: int = 0,
) -> int:
    """Asks the lines round by round.

    Args:
        rounds: number and concurrency of each round; a concurrency of None is the number of slots.
        add: receives each record.
        answered_before: number of questions that an earlier run answered.

    Returns:
        The exit code.
    """
    progress = _Progress(len(lines), answered_before, add)
    try:
        for (number, _), line in lines.items():
            if isinstance(line, InvalidLine):
                progress.add(runner.empty_record(line, number))

        async def answer_all() -> None:
            runner.backend.start()
            await until_ready(runner.backend, progress.loading)
            progress.answering()
            for number, concurrency in rounds:
                questions = [line for key, line in lines.items() if key[0] == number and isinstance(line, Question)]
                await runner.run(questions, number, concurrency or runner.backend.info.slots, progress.add)

        if any(isinstance(line, Question) for line in lines.values()):
            asyncio.run(answer_all())
    except KeyboardInterrupt:
        progress.end("Interrupted: ")
        return INTERRUPTED
    except BackendUnavailable:
        progress.end()
        raise
    finally:
        runner.backend.close()
    progress.end()
    return SOME_FAILED if progress.failed else 0


class _Progress:
    """Reports failed lines and a summary on stderr, and shows a progress bar if stderr is a terminal."""

    def __init__(self, total: int, answered_before: int, write: Callable[[Record], None]) -> None:
        from tqdm import tqdm

        self.failed = 0
        self._total, self._answered_before, self._write = total, answered_before, write
        self._answered, self._tokens = 0, 0
        self._started = time.perf_counter()
        self._bar: Any = tqdm(total=total, unit=" answers", file=sys.stderr, disable=None, dynamic_ncols=True)

    def loading(self, detail: str) -> None:
        self._bar.set_description(detail)

    def answering(self) -> None:
        """Starts the clock, after the model is loaded."""
        self.loading("")
        self._bar.unpause()
        self._started = time.perf_counter()

    def add(self, record: Record) -> None:
        with self._bar.external_write_mode(file=sys.stdout):  # the record may be written to the same terminal
            if failed(record):
                self.failed += 1
                print(f"line {record['line']}: {record['error']}", file=sys.stderr, flush=True)
            else:
                self._answered += 1
            self._write(record)
        self._tokens += record["completion_tokens"] or 0
        self._bar.update()

    def end(self, prefix: str = "") -> None:
        self._bar.close()
        seconds = time.perf_counter() - self._started
        before = f" ({self._answered_before} more were answered before)" if self._answered_before else ""
        speed = f" in {seconds:.1f} s, {self._tokens / seconds:.1f} tokens/s" if self._tokens else ""
        print(f"{prefix}{self._answered} of {self._total} answered{before}{speed}.", file=sys.stderr, flush=True)


def _numbers(text: str) -> list[Any]:
    return [int(part) if part.strip().isdecimal() else part for part in text.split(",")]
