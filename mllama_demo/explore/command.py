"""`python -m mllama_demo explore --spec GRID`: runs a grid on any backend and prints what came of it; no browser, no server."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mllama_demo.config.branding import Brand, load_brand
from mllama_demo.config.loader import load_settings
from mllama_demo.engine.readiness import until_ready
from mllama_demo.errors import ConfigError
from mllama_demo.explore.grid import Estimate, Grid
from mllama_demo.explore.spec import Spec, open_image, read_spec
from mllama_demo.runtime.process import terminated
from mllama_demo.web.serve import set_up_logging

if TYPE_CHECKING:
    from mllama_demo.explore.results import Run
    from mllama_demo.explore.runner import Explorer, GridRun
    from mllama_demo.images.loading import LoadedImage

SOME_FAILED = 1
INTERRUPTED = 130  # as shells say it of Ctrl-C
_PROGRESS_S = 0.25


@dataclass(frozen=True)
class Outputs:
    """The files to write a run to, each as the format of its name."""

    json: Path | None
    csv: Path | None
    html: Path | None

    def check(self) -> None:
        """Raises ConfigError for a file that cannot be written because of its folder, before anything takes long."""
        for path in (self.json, self.html, self.csv):
            if path is not None and (path.is_dir() or not path.parent.is_dir()):
                raise ConfigError(
                    f"{path} cannot be written: {'it is a folder' if path.is_dir() else 'there is no such folder'}."
                )

    def write(self, run: Run, brand: Brand) -> None:
        """Raises ConfigError for a file that cannot be written."""
        from mllama_demo.explore.import_export import to_csv, to_json
        from mllama_demo.explore.report import html_report
        from mllama_demo.explore.snippets import DEFAULT_URL

        def to_html(run: Run) -> str:
            return html_report(run, DEFAULT_URL, brand)

        for path, make in ((self.json, to_json), (self.csv, to_csv), (self.html, to_html)):
            if path is None:
                continue
            try:
                path.write_text(make(run), encoding="utf-8", newline="")
            except OSError as error:
                raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None
            print(f"Written: {path}", file=sys.stderr)


def run_grid(options: Sequence[str], file: Path, outputs: Outputs) -> int:
    """The command `explore --spec FILE`, with the options of `serve`.

    Returns:
        The exit code: 0 when every cell has an answer, 1 when some failed, 130 when interrupted.
    """
    outputs.check()
    set_up_logging()
    settings = load_settings(options)
    spec, brand = read_spec(file, settings), load_brand(settings)
    image = open_image(spec, settings)
    from mllama_demo.backends import make_backend
    from mllama_demo.explore.runner import Explorer

    backend, tokenizer = make_backend(settings)
    explorer = Explorer(backend, tokenizer, settings)
    with terminated():
        try:
            backend.start()
            run, interrupted = asyncio.run(_explore(explorer, spec, image))
        except (KeyboardInterrupt, asyncio.CancelledError):  # before there was anything to keep
            run, interrupted = None, True
        finally:
            backend.close()
    if run is None:
        return INTERRUPTED
    _show(run, sys.stdout)
    outputs.write(run, brand)
    if interrupted:
        print(f"Interrupted: {sum(cell.complete for cell in run.cells)} of {len(run.cells)} cells answered.", file=sys.stderr)
        return INTERRUPTED
    return SOME_FAILED if run.failed else 0


def show_run(options: Sequence[str], file: Path, outputs: Outputs) -> int:
    """The command `explore --run FILE`: prints a run that was written before, and writes its other formats."""
    outputs.check()
    from mllama_demo.explore.import_export import from_json

    if options:
        raise ConfigError(f"With --run nothing is generated, so {options[0]} has no meaning.")
    try:
        run = from_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"The run {file} cannot be read: {error.strerror}.") from None
    _show(run, sys.stdout)
    outputs.write(run, load_brand(load_settings([])))
    return SOME_FAILED if run.failed else 0


async def _explore(explorer: Explorer, spec: Spec, image: LoadedImage | None) -> tuple[Run, bool]:
    """The run, and whether it was interrupted; what was said until then is kept."""
    line = _Progress(sys.stderr)
    if (task := asyncio.current_task()) is not None and threading.current_thread() is threading.main_thread():
        # As asyncio itself does for Ctrl-C; an exception from a handler would end the loop with the run lost.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await until_ready(explorer.backend, lambda detail: line.show(f"{detail} …"))
        line.say(_in_words(spec.grid, explorer.estimate(spec.grid)))
        async with await explorer.start(spec.grid, image) as run:
            interrupted = False
            try:
                await _watch(run, line)
            except asyncio.CancelledError:  # Ctrl-C; what is kept of the cells is worth having
                interrupted = True
                run.stop()
            return run.run(), interrupted
    finally:
        line.close()


async def _watch(run: GridRun, line: _Progress) -> None:
    watching = asyncio.create_task(run.wait())
    began = time.perf_counter()
    try:
        while not watching.done():
            await asyncio.wait([watching], timeout=_PROGRESS_S)
            done = sum(cell.phase == "done" for cell in run.cells)
            tokens = sum(len(cell.tokens) for cell in run.cells)
            speed = tokens / (time.perf_counter() - began)
            line.show(f"{done} of {len(run.cells)} cells, {tokens} tokens, {speed:.0f} tokens/s")
    finally:
        watching.cancel()


# --- what people see -----------------------------------------------------------------------------------------------------


class _Progress:
    """One line that is written over, where stderr is a terminal; elsewhere only what is said once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._on = stream, stream.isatty()

    def show(self, text: str) -> None:
        if self._on:
            print(f"\r\033[K{text[:120]}", end="", file=self._stream, flush=True)

    def say(self, text: str) -> None:
        self.close()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._on:
            print("\r\033[K", end="", file=self._stream, flush=True)


def _in_words(grid: Grid, estimate: Estimate) -> str:
    seconds = "" if estimate.seconds is None else f", about {estimate.seconds:.0f} s"
    reads = "once" if estimate.prefills == 1 else f"{estimate.prefills} times"
    notes = "".join(f"\n{note}" for note in grid.notes())
    return f"{estimate.cells} cells, {estimate.tokens:,} tokens at most{seconds}; the prompt is read {reads}.{notes}"


def _show(run: Run, stream: TextIO) -> None:
    """The tables of cells and of measures."""
    from mllama_demo.explore.measures import MEASURES, groups

    one = [MEASURES[name] for name in ("entropy", "ttft", "speed")]
    rows = [
        [
            *(f"{cell.temperature:g}", f"{cell.top_p:g}", str(cell.top_k), str(cell.seed), str(len(cell.tokens))),
            *(measure.text(measure.of([cell])) for measure in one),
            cell.outcome or "not run",
            _start(cell.error or cell.text),
        ]
        for cell in run.cells
    ]
    head = ["temperature", "top_p", "top_k", "seed", "tokens", *(m.label.lower() for m in one), "outcome", "answer"]
    _table(head, rows, stream)
    axes = run.grid.compared()
    found = groups(run, axes)
    print(file=stream)
    head = [*axes, "answers", *(measure.label.lower() for measure in MEASURES.values())]
    rows = [
        [
            *(f"{value:g}" for value in group.values.values()),
            str(len(group.cells)),
            *(measure.text(group.measure(name)) for name, measure in MEASURES.items()),
        ]
        for group in found
    ]
    _table(head, rows, stream)


def _start(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:59]}…"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip(), file=stream)
