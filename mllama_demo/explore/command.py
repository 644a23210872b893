"""The command `explore`: runs the grid of a YAML file on any backend, prints the answers and writes files. Starts no server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mllama_demo.config.branding import Brand, load_brand
from mllama_demo.config.loader import load_settings, load_settings_and_log
from mllama_demo.engine.readiness import until_ready
from mllama_demo.errors import ConfigError
from mllama_demo.explore.spec import GridSpec, load_spec_image, read_spec
from mllama_demo.runtime.console import INTERRUPTED_EXIT_CODE
from mllama_demo.runtime.process import sigterm_as_interrupt

if TYPE_CHECKING:
    from tqdm import tqdm

    from mllama_demo.explore.results import Run
    from mllama_demo.explore.runner import Explorer, GridTasks
    from mllama_demo.images.loading import LoadedImage

SOME_FAILED = 1
_PROGRESS_S = 0.25


@dataclass(frozen=True)
class Outputs:
    """The files to write a run to, one for each format. None: do not write it."""

    json: Path | None
    csv: Path | None
    html: Path | None

    def check(self) -> None:
        """Raises ConfigError for a file that cannot be written because of its folder. Call it before the model is loaded."""
        for path in (self.json, self.html, self.csv):
            if path is not None and (path.is_dir() or not path.parent.is_dir()):
                raise ConfigError(
                    f"{path} cannot be written: {'it is a folder' if path.is_dir() else 'there is no such folder'}."
                )

    def write(self, run: Run, brand: Brand) -> None:
        """Writes the files. Raises ConfigError for a file that cannot be written."""
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
    settings = load_settings_and_log(options)
    spec, brand = read_spec(file, settings), load_brand(settings)
    image = load_spec_image(spec, settings)
    from mllama_demo.backends import make_backend
    from mllama_demo.explore.runner import Explorer

    backend, tokenizer = make_backend(settings)
    explorer = Explorer(backend, tokenizer, settings)
    with sigterm_as_interrupt():
        try:
            backend.start()
            run, interrupted = asyncio.run(_explore(explorer, spec, image))
        except (KeyboardInterrupt, asyncio.CancelledError):  # before the first answer began
            run, interrupted = None, True
        finally:
            backend.close()
    if run is None:
        return INTERRUPTED_EXIT_CODE
    _show(run, sys.stdout)
    outputs.write(run, brand)
    if interrupted:
        print(f"Interrupted: {sum(cell.complete for cell in run.cells)} of {len(run.cells)} cells answered.", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    return SOME_FAILED if run.failed_count else 0


def show_run(options: Sequence[str], file: Path, outputs: Outputs) -> int:
    """The command `explore --run FILE`: prints a run from a file that --output wrote, and writes other formats."""
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
    return SOME_FAILED if run.failed_count else 0


async def _explore(explorer: Explorer, spec: GridSpec, image: LoadedImage | None) -> tuple[Run, bool]:
    """Returns the run, and whether it was interrupted. An interrupted run contains the answers so far."""
    from tqdm import tqdm

    if (task := asyncio.current_task()) is not None and threading.current_thread() is threading.main_thread():
        # asyncio cancels the task on Ctrl-C, but not in Python 3.10. An exception from a signal handler would end the event loop
        # and lose the run.
        for number in (signal.SIGTERM, signal.SIGINT) if sys.version_info < (3, 11) else (signal.SIGTERM,):
            with contextlib.suppress(NotImplementedError):  # Windows, where nothing sends SIGTERM
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    # disable=None: shown only where stderr is a terminal. tqdm shows nothing in a terminal that reports no size, so it gets one.
    with tqdm(bar_format="{desc}", file=sys.stderr, disable=None, leave=False, ncols=120, nrows=24) as status:
        await until_ready(explorer.backend, lambda detail: status.set_description_str(f"{detail} …"))
        tqdm.write("\n".join([explorer.estimate(spec.grid).text(), *spec.grid.notes()]), file=sys.stderr)
        async with await explorer.start(spec.grid, image) as tasks:
            interrupted = False
            try:
                await _show_progress(tasks, status)
            except asyncio.CancelledError:  # Ctrl-C
                interrupted = True
                tasks.stop()
            return tasks.run(), interrupted


async def _show_progress(tasks: GridTasks, status: tqdm) -> None:
    began = time.perf_counter()
    while not tasks.finished:
        await tasks.wait(timeout_s=_PROGRESS_S)
        done = sum(cell.phase == "done" for cell in tasks.cells)
        tokens = sum(len(cell.tokens) for cell in tasks.cells)
        speed = tokens / (time.perf_counter() - began)
        status.set_description_str(f"{done} of {len(tasks.cells)} cells, {tokens} tokens, {speed:.0f} tokens/s")


# --- output --------------------------------------------------------------------------------------------------------------


def _show(run: Run, stream: TextIO) -> None:
    """Prints a table of the cells and a table of the measures."""
    from mllama_demo.explore.measures import MEASURES, group_cells
    from mllama_demo.explore.results import shortened

    cell_measures = [MEASURES[name] for name in ("entropy", "ttft", "speed")]
    rows = [
        [
            *(f"{cell.temperature:g}", f"{cell.top_p:g}", str(cell.top_k), str(cell.seed), str(len(cell.tokens))),
            *(measure.text(measure.of([cell])) for measure in cell_measures),
            cell.outcome or "not run",
            shortened(cell.error or cell.text),
        ]
        for cell in run.cells
    ]
    head = ["temperature", "top_p", "top_k", "seed", "tokens", *(m.label.lower() for m in cell_measures), "outcome", "answer"]
    _table(head, rows, stream)
    axes = run.grid.grouping_axes()
    print(file=stream)
    head = [*axes, "answers", *(measure.label.lower() for measure in MEASURES.values())]
    rows = [
        [
            *(f"{value:g}" for value in group.values.values()),
            str(len(group.cells)),
            *(measure.text(group.measure(name)) for name, measure in MEASURES.items()),
        ]
        for group in group_cells(run, axes)
    ]
    _table(head, rows, stream)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip(), file=stream)
