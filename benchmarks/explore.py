"""Measures what the shared prompt of a grid saves: 3 × 3 cells of one grid against nine separate requests and against one cell.

    python -m benchmarks explore [--rounds 3] [--tokens 64] [--json FILE]

Every answer has max_tokens tokens, so that wall times are comparable. "reading" is the CPU time of the backend's thread in
prefills; "reads" is the number of pieces of prompts that were read instead of copied. Times are medians. The variants take
turns, so that noise of the machine affects all of them. At the end: bytes of a recorded token when pickled, in JSON and in the
database.
"""

from __future__ import annotations

import argparse
import asyncio
import pickle
import statistics
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.record import write
from mllama_demo.backends import make_backend
from mllama_demo.config.loader import load_settings
from mllama_demo.engine.base import FinishEvent, GenerationRequest
from mllama_demo.explore.grid import Grid, make_grid
from mllama_demo.explore.import_export import to_json
from mllama_demo.explore.results import Run
from mllama_demo.explore.runner import Explorer
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.loading import load_image


@dataclass
class Reading:
    """CPU seconds of prefills since the last reset. reads: pieces of prompts that were read instead of copied."""

    seconds: float = 0.0
    reads: int = 0


@dataclass(frozen=True)
class Figure:
    """One round of one variant. tokens: of all cells."""

    wall_s: float
    reading: Reading
    tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", default="Tell me a story about it")
    parser.add_argument("--image", type=Path, default=EXAMPLES_FOLDER / "dog.png")
    parser.add_argument("--json", type=Path, help="also write all measurements to this file")
    args, rest = parser.parse_known_args()
    figures, run = asyncio.run(measure(args, load_settings(rest)))
    for name, rounds in figures.items():
        print(line(name, rounds))
    print(sizes(run))
    write(args.json, {name: [vars(f) | {"reading": vars(f.reading)} for f in r] for name, r in figures.items()})


async def measure(args: argparse.Namespace, settings: Any) -> tuple[dict[str, list[Figure]], Run]:
    """Returns the rounds of each variant, and a run whose size is measured."""
    ready = threading.Event()
    backend, tokenizer = make_backend(settings, on_ready=ready.set)
    backend.start()
    assert ready.wait(600), backend.status().detail
    reading = watch(backend)
    explorer = Explorer(backend, tokenizer, settings)
    image = load_image(args.image.read_bytes(), args.image.name)
    nine = make_grid(
        {"prompt": args.prompt, "temperature": [0.5, 1.0, 1.5], "top_p": [0.7, 0.9, 1.0], "seed": 1, "max_tokens": args.tokens}
    )
    one = make_grid({**nine.model_dump(), "temperature": 1.0, "top_p": 0.9})
    figures: dict[str, list[Figure]] = {"one cell": [], "nine requests": [], "nine cells": []}
    last: Run | None = None
    for at in range(args.rounds + 1):
        for name, rounds in figures.items():
            grid = one if name == "one cell" else nine
            # Each round has another prompt, so that no prompt is in the cache.
            grid = grid.model_copy(update={"prompt": f"{grid.prompt} ({at} {name})"})
            reading.seconds, reading.reads = 0.0, 0
            began = time.perf_counter()
            tokens, last = await (separate(explorer, grid, image) if name == "nine requests" else together(explorer, grid, image))
            if at:  # the first round warms up
                rounds.append(Figure(time.perf_counter() - began, replace(reading), tokens))
    backend.close()
    assert last is not None
    return figures, last


def watch(backend: Any) -> Reading:
    """Measures the runner's prefills from now on. Disables the end of turn, so that answers have max_tokens tokens."""
    backend._scheduler._end_of_turn_ids = frozenset()
    runner, reading = backend._scheduler._runner, Reading()
    begin, read_piece, read_text = runner.begin, runner.read_piece, runner._read_text

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*arguments)
            finally:
                reading.seconds += time.thread_time() - began

        return measured

    def counted(*arguments: Any) -> Any:
        reading.reads += 1
        return read_text(*arguments)

    runner.begin, runner.read_piece, runner._read_text = timed(begin), timed(read_piece), counted
    return reading


async def together(explorer: Explorer, grid: Grid, image: Any) -> tuple[int, Run]:
    async with await explorer.start(grid, image) as cells:
        await cells.wait()
        run = cells.run()
    return sum(len(cell.tokens) for cell in run.cells), run


async def separate(explorer: Explorer, grid: Grid, image: Any) -> tuple[int, None]:
    """The same cells as concurrent separate requests, each with its own prefill."""
    base = await explorer._request(grid, image, None)
    requests = [
        replace(base, sampling=values, conversation_id="", id=f"{time.perf_counter()} {index}")
        for index, values in enumerate(grid.cells())
    ]

    async def ask(request: GenerationRequest) -> int:
        async with aclosing(explorer.backend.generate(request)) as events:
            async for event in events:
                if isinstance(event, FinishEvent):
                    return event.completion_tokens
        return 0

    return sum(await asyncio.gather(*map(ask, requests))), None


def line(name: str, rounds: list[Figure]) -> str:
    wall = statistics.median(f.wall_s for f in rounds)
    reading = statistics.median(f.reading.seconds for f in rounds)
    reads = statistics.median(f.reading.reads for f in rounds)
    tokens = statistics.median(f.tokens for f in rounds)
    return f"{name:14} wall {wall:6.2f} s, reading {1000 * reading:7.1f} ms of CPU in {reads:.0f} reads, {tokens:.0f} tokens"


def sizes(run: Run) -> str:
    tokens = [token for cell in run.cells for token in cell.tokens]
    text = to_json(run.model_copy(update={"image": None}))
    memory = len(pickle.dumps([token.trace for token in tokens])) / len(tokens)
    return (
        f"a recorded token: {memory:.0f} bytes pickled, {len(text) / len(tokens):.0f} in JSON, "
        f"{len(zlib.compress(text.encode())) / len(tokens):.0f} in the database"
    )
