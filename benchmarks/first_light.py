"""Start-up, speed, scheduler overhead and memory of the demo on this machine. `make bench` runs it.

    python -m benchmarks start [--runs 5] [--threads 0] [--json FILE]

Every figure is a median over runs, with the smallest and largest beside it. Start-up and memory are taken from the real
program in a process of its own; speed goes through the same queue, scheduler and runner as a question in the browser.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import write

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "What is in this image? Tell me a story"
ANSWER_TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="as the demo's option: 0 measures")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    figures: dict[str, list[float]] = {}
    show(figures, "environment (MB)", [environment_megabytes()])
    for name, values in starts(args.runs).items():
        show(figures, name, values)
    for name, values in speeds(args.runs, args.threads).items():
        show(figures, name, values)
    write(args.json, figures)


def show(figures: dict[str, list[float]], name: str, values: list[float]) -> None:
    if values:
        figures[name] = values
        print(
            f"{name:58} {statistics.median(values):9.2f}   ({min(values):.2f} to {max(values):.2f}, n = {len(values)})",
            flush=True,
        )


def environment_megabytes() -> float:
    """Size of the Python environment that runs this, on disk."""
    files = (path for path in Path(sys.prefix).rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_blocks * 512 for path in files) / 1e6


# --- the whole program ---------------------------------------------------------------------------------------------------


def starts(runs: int) -> dict[str, list[float]]:
    """Seconds from process start to page and to ready, and resident memory; cold where the page cache can be dropped."""
    result: dict[str, list[float]] = {}
    kinds: list[tuple[str, Callable[[], bool]]] = [("cold", drop_page_cache), ("warm", lambda: True)]
    for kind, prepare in kinds:
        for _ in range(runs):
            if not prepare():
                break
            for name, value in one_start().items():
                result.setdefault(f"{name}, {kind} start", []).append(value)
    return result


def drop_page_cache() -> bool:
    """Makes the next start read everything from disk; False where that is not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def one_start() -> dict[str, float]:
    with socket.socket() as probe, tempfile.TemporaryDirectory() as data:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "app.py", "--port", str(port), "--data-dir", data]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            figures: dict[str, float] = {}
            for line in process.stdout:
                if found := re.search(r"Page up after ([\d.]+) s", line):
                    figures["page up (s)"] = float(found[1])
                if found := re.search(r"Ready in ([\d.]+) s", line):
                    figures["ready (s)"] = float(found[1])
                    break
            figures["resident memory when ready (MB)"] = resident_megabytes(process.pid)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
    return figures


def resident_megabytes(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1000 if found else float("nan")


# --- speed through the queue ---------------------------------------------------------------------------------------------


class TimedRunner:
    """A ModelRunner that adds up the time spent inside the real one."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.slots, self.max_seq_len = runner.slots, runner.max_seq_len
        self.seconds, self.steps = 0.0, 0

    def choose_slot(self, free: Any, request: Any) -> int:
        return self._timed(self._runner.choose_slot, free, request)

    def begin(self, slot: int, request: Any) -> int:
        return self._timed(self._runner.begin, slot, request)

    def read_piece(self, slot: int) -> Any:
        return self._timed(self._runner.read_piece, slot)

    def decode(self, slots: Any) -> Any:
        self.steps += 1
        return self._timed(self._runner.decode, slots)

    def release(self, slot: int) -> None:
        self._timed(self._runner.release, slot)

    def _timed(self, call: Callable[..., Any], *args: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*args)
        finally:
            self.seconds += time.perf_counter() - started


def speeds(runs: int, threads: int) -> dict[str, list[float]]:
    """Time to first token and tokens per second with 1, 2 and 4 questions at a time; scheduler time per decode step."""
    from mllama_demo.backends import make_backend
    from mllama_demo.config.loader import load_settings

    settings = load_settings(["--threads", str(threads)], environ={})
    ready = threading.Event()
    backend, tokenizer = make_backend(settings, on_ready=ready.set)
    backend.start()
    ready.wait()
    result: dict[str, list[float]] = {}
    for concurrent in (1, 2, 4):
        asyncio.run(ask_at_once(backend, tokenizer, concurrent))
        for _ in range(runs):
            started = time.perf_counter()
            answers = asyncio.run(ask_at_once(backend, tokenizer, concurrent))
            wall = time.perf_counter() - started
            at = f"{concurrent} at once"
            result.setdefault(f"time to first token (ms), {at}, slowest", []).append(max(a.timings.ttft_s for a in answers) * 1e3)
            result.setdefault(f"tokens/s of one answer, {at}", []).extend(
                a.timings.tokens_per_second(a.completion_tokens) for a in answers
            )
            result.setdefault(f"tokens/s of all, {at}", []).append(sum(a.completion_tokens for a in answers) / wall)
    backend.close()
    result |= overhead(runs, settings, tokenizer)
    return result


def image_request(tokenizer: Any, seed: int) -> Any:
    from mllama_demo.chat.conversation import ImageRef, Message
    from mllama_demo.chat.prompt import encode_chat
    from mllama_demo.engine.base import GenerationRequest
    from mllama_demo.images.examples import EXAMPLES_FOLDER
    from mllama_demo.images.loading import load_image
    from mllama_demo.sampling import SamplingParams

    image = load_image((EXAMPLES_FOLDER / "dog.png").read_bytes(), "dog.png")
    message = Message("user", QUESTION, ImageRef(image.digest, image.name, image.width, image.height))
    # Temperature 2 rarely ends a turn early, so that runs are of like length.
    sampling = SamplingParams(temperature=2.0, top_p=1.0, max_tokens=ANSWER_TOKENS, seed=seed)
    return GenerationRequest(tuple(encode_chat((message,), tokenizer)), sampling, image)


async def ask_at_once(backend: Any, tokenizer: Any, concurrent: int) -> list[Any]:
    """The FinishEvents of so many image questions asked at the same moment."""
    from mllama_demo.engine.base import FinishEvent

    async def ask(seed: int) -> Any:
        async for event in backend.generate(image_request(tokenizer, seed)):
            if isinstance(event, FinishEvent):
                return event
        raise AssertionError("a stream ended without a FinishEvent")

    return await asyncio.gather(*[ask(seed) for seed in range(concurrent)])


def overhead(runs: int, settings: Any, tokenizer: Any) -> dict[str, list[float]]:
    """Milliseconds of a decode step with four answers under way, inside the model and outside it."""
    from mllama_demo.chat.tokenizer import IncrementalText
    from mllama_demo.engine.scheduler import Scheduler
    from mllama_demo.engine.torch.runner import TorchRunner

    result: dict[str, list[float]] = {}
    real = TorchRunner.load(settings.model_path, slots=settings.batch_size, max_seq_len=settings.seq_len)
    for _ in range(runs):
        runner = TimedRunner(real)
        scheduler = Scheduler(
            runner,
            new_text_stream=lambda sampling: IncrementalText(tokenizer, sampling.stop),
            end_of_turn_ids=frozenset(),
        )
        for seed in range(runner.slots):
            scheduler.submit(image_request(tokenizer, seed))
        while scheduler.status().waiting:
            scheduler.step()
        runner.seconds, runner.steps = 0.0, 0
        started = time.perf_counter()
        while scheduler.has_work():
            scheduler.step()
        wall = time.perf_counter() - started
        result.setdefault("decode step inside the model (ms), 4 slots", []).append(runner.seconds / runner.steps * 1e3)
        result.setdefault("decode step outside the model (ms), 4 slots", []).append((wall - runner.seconds) / runner.steps * 1e3)
    return result
