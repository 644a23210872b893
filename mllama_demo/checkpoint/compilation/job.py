"""Runs the worker process that compiles: starts it, reports its progress, and ends it with all processes that it started."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import mllama_demo
from mllama_demo.engine.neuron.compiler_log import CompileLog, CompileProgress
from mllama_demo.engine.neuron.runtime_errors import COMPILER_KILLED, compiler_was_killed, with_advice
from mllama_demo.errors import ConfigError

WORK_DIR_VARIABLE = "BASE_COMPILE_WORK_DIR"  # NxD empties this folder; its default is one folder for the whole machine
INTERRUPTED = "The compilation was interrupted; nothing of it was kept."
TICK_S = 1.0
_GRACE_S = 5.0
_LOG_END_BYTES = 256 * 1024


def run(job: dict[str, Any], graphs: int, work: Path, log: Path, on_progress: Callable[[CompileProgress], None]) -> None:
    """Compiles into job["folder"]; returns when the compilation is complete.

    An exception, also one of on_progress, ends the worker process and all processes that it started.

    Args:
        job: the input of worker.py.
        graphs: the number of graphs to compile.
        work: a working folder of NxD for this compilation only.
        log: the file for the output of the worker and the compilers.
        on_progress: called at least every TICK_S seconds.

    Raises:
        ConfigError: the compilation failed.
    """
    root = str(Path(mllama_demo.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mllama_demo.checkpoint.compilation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env={**os.environ, "PYTHONPATH": path, WORK_DIR_VARIABLE: str(work)},
            start_new_session=True,  # Ctrl-C reaches this process only, which then ends the worker
        )
    assert process.stdin is not None
    assert process.stdout is not None

    at_exit = threading.Event()

    def end_at_exit() -> None:
        at_exit.set()
        _end(process)

    atexit.register(end_at_exit)  # the program does not wait for the compiling thread when it ends
    try:
        with contextlib.suppress(BrokenPipeError):  # the worker has ended, which _follow sees
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        outcome = _follow(process.stdout, CompileLog(graphs), work, Path(job["folder"]), on_progress)
        if "done" not in outcome:
            raise ConfigError(INTERRUPTED if at_exit.is_set() else _failure(outcome, process, log))
    finally:
        _end(process)
        atexit.unregister(end_at_exit)


def _follow(
    stream: IO[bytes], log: CompileLog, work: Path, folder: Path, on_progress: Callable[[CompileProgress], None]
) -> dict[str, str]:
    """Reports progress until the worker ends. Returns its last event; empty when it ended without one."""
    events: queue.Queue[dict[str, str] | None] = queue.Queue()

    def read() -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                events.put(json.loads(line))
        events.put(None)

    threading.Thread(target=read, name="compile-events", daemon=True).start()
    reported = -TICK_S
    while True:
        with contextlib.suppress(queue.Empty):
            event = events.get(timeout=TICK_S)
            if event is None or "log" not in event:
                return event or {}
            log.read(event["log"])
        if time.monotonic() - reported >= TICK_S or log.progress.stage == "starting":
            log.update_counts(len(list(work.glob("*/_tp0_bk*/graph.neff"))), len(list(folder.glob("weights/*.safetensors"))))
            on_progress(log.progress)
            reported = time.monotonic()


def _failure(outcome: dict[str, str], process: subprocess.Popen[bytes], log: Path) -> str:
    """The sentence that says why the compilation failed."""
    if "error" in outcome:
        return outcome["error"]
    if "full" in outcome:
        return f"The disk filled up while the model was compiled ({outcome['full']}); nothing of it was kept."
    said = f"{log} has all that was said."
    if compiler_was_killed(_end_of(log)) or compiler_was_killed(outcome.get("failed", "")):
        return f"{COMPILER_KILLED}. Nothing of the compilation was kept; {said}"
    if "failed" in outcome:
        return f"The model could not be compiled ({with_advice(outcome['failed'])}); {said}"
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    code = process.poll()
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            return f"{COMPILER_KILLED}. Nothing of the compilation was kept; {said}"
        return f"The process that compiled the model was ended by {name}; {said}"
    return f"The process that compiled the model ended with exit code {code}; {said}"


def _end_of(log: Path) -> str:
    """The last lines of the log of a compilation, where a compiler that was killed is named."""
    with contextlib.suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LOG_END_BYTES))
        return stream.read().decode(errors="replace")
    return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends all processes of the worker's process group."""
    for name in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, name)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
            if name is signal.SIGKILL:
                break
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
