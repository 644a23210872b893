"""`python -m mllama_demo offline FILE`: answers a batch of prompts with any backend, without a browser and without a server.

To the terminal in the format of AWS's tutorial, or with --output as JSON lines from which an interrupted batch goes on.
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
from mllama_demo.offline.batch import BadLine, Question, check_at_once, read_batch
from mllama_demo.offline.results import Key, Printer, Record, check_kept, failed, open_results
from mllama_demo.runtime.process import terminated
from mllama_demo.web.serve import set_up_logging

if TYPE_CHECKING:
    from mllama_demo.offline.asking import Asker

SOME_FAILED = 1
INTERRUPTED = 130  # as shells say it of Ctrl-C


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
    at_once = check_at_once(_numbers(concurrency), "--concurrency") if concurrency else batch.at_once
    from mllama_demo.backends import make_backend
    from mllama_demo.offline.asking import Asker

    backend, tokenizer = make_backend(settings)
    asker = Asker(backend, tokenizer, settings, file.parent)
    rounds = list(enumerate(at_once or (None,), start=1))
    # A line that cannot be asked is told of once, every other one is asked in each round.
    lines = {(n, line.line): line for n, _ in rounds for line in batch.lines if n == 1 or isinstance(line, Question)}
    with terminated():
        if output is None or str(output) == "-":
            printer = Printer(sys.stdout, list(lines), as_json=output is not None)
            try:
                return _run(asker, lines, rounds, printer.add)
            finally:
                printer.close()
        with open_results(output) as results:
            check_kept(output, results, {key: _as_it_is(asker, line, key[0]) for key, line in lines.items()})
            kept = [key for key, record in results.records.items() if not failed(record)]
            for key in kept:
                del lines[key]
            return _run(asker, lines, rounds, results.add, len(kept))


def _as_it_is(asker: Asker, line: Question | BadLine, round_: int) -> Record:
    blank = asker.blank(line, round_)
    if asker.settings.backend == "openai":  # a server that is not asked yet may have any name for its model
        blank["model"] = asker.settings.remote_model
    if blank["image"] is not None:
        blank["image"]["digest"] = file_digest(blank["image"]["source"], asker.folder)
    return blank


def _run(
    asker: Asker,
    lines: dict[Key, Question | BadLine],
    rounds: Sequence[tuple[int, int | None]],
    add: Callable[[Record], None],
    kept: int = 0,
) -> int:
    """Asks the lines round by round; the exit code. rounds: number, and how many at once, None for one a slot. kept: how many
    were answered in an earlier run."""
    terminal = _Terminal(len(lines), kept)
    try:
        for (number, _), line in lines.items():
            if isinstance(line, BadLine):
                terminal.tell(asker.blank(line, number), add)

        async def ask() -> None:
            asker.backend.start()
            await until_ready(asker.backend, terminal.loading)
            terminal.answering()
            for number, at_once in rounds:
                questions = [line for key, line in lines.items() if key[0] == number and isinstance(line, Question)]
                await asker.ask_all(
                    questions, number, at_once or asker.backend.info.slots, lambda record: terminal.tell(record, add)
                )

        if any(isinstance(line, Question) for line in lines.values()):
            asyncio.run(ask())
    except KeyboardInterrupt:
        terminal.end("Interrupted: ")
        return INTERRUPTED
    except BackendUnavailable:
        terminal.end()
        raise
    finally:
        asker.backend.close()
    terminal.end()
    return SOME_FAILED if terminal.failed else 0


# --- what people see -----------------------------------------------------------------------------------------------------


class _Terminal:
    """Failed lines and a summary on stderr, and a bar where that is a terminal."""

    def __init__(self, total: int, kept: int) -> None:
        from tqdm import tqdm

        self.failed = 0
        self._total, self._kept, self._answered, self._tokens = total, kept, 0, 0
        self._started = time.perf_counter()
        self._bar: Any = tqdm(total=total, unit=" answers", file=sys.stderr, disable=None, dynamic_ncols=True)

    def loading(self, detail: str) -> None:
        self._bar.set_description(detail)

    def answering(self) -> None:
        """The model is loaded: time counts from now."""
        self.loading("")
        self._bar.unpause()
        self._started = time.perf_counter()

    def tell(self, record: Record, write: Callable[[Record], None]) -> None:
        """write puts the record where it belongs, which may be on the same terminal."""
        with self._bar.external_write_mode(file=sys.stdout):
            if failed(record):
                self.failed += 1
                print(f"line {record['line']}: {record['error']}", file=sys.stderr, flush=True)
            else:
                self._answered += 1
            write(record)
        self._tokens += record["completion_tokens"] or 0
        self._bar.update()

    def end(self, how: str = "") -> None:
        self._bar.close()
        seconds = time.perf_counter() - self._started
        before = f" ({self._kept} more were answered before)" if self._kept else ""
        speed = f" in {seconds:.1f} s, {self._tokens / seconds:.1f} tokens/s" if self._tokens else ""
        print(f"{how}{self._answered} of {self._total} answered{before}{speed}.", file=sys.stderr, flush=True)


def _numbers(text: str) -> list[Any]:
    return [int(part) if part.strip().isdecimal() else part for part in text.split(",")]
