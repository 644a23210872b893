"""Runs the process that compiles: starts it, tells how far it is, and leaves nothing of it running."""

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
from mllama_demo.errors import ConfigError

WORK_DIR_VARIABLE = "BASE_COMPILE_WORK_DIR"  # NxD empties the folder it names; the default is one for the whole machine
INTERRUPTED = "The compilation was interrupted; nothing of it was kept."
TICK_S = 1.0
_GRACE_S = 5.0


def run(job: dict[str, Any], graphs: int, work: Path, log: Path, tell: Callable[[CompileProgress], None]) -> None:
    """Compiles into job["folder"] and returns when that is done. Calls tell at least every TICK_S seconds.

    job: see compile_worker. work: a folder for NxD alone. log: a file for all that is logged and printed. Raises ConfigError
    with one sentence when it failed; whatever is raised, also by tell, the process and all that it started are gone then.
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
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one and all that it started
        )
    assert process.stdin is not None
    assert process.stdout is not None

    at_exit = threading.Event()

    def end_at_exit() -> None:
        at_exit.set()
        _end(process)

    atexit.register(end_at_exit)  # a thread that compiles is not waited for when the program ends
    try:
        with contextlib.suppress(BrokenPipeError):  # it is gone already, which shows below
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        outcome = _follow(process.stdout, CompileLog(graphs), work, Path(job["folder"]), tell)
        if "done" not in outcome:
            raise ConfigError(INTERRUPTED if at_exit.is_set() else _why(outcome, process, log))
    finally:
        _end(process)
        atexit.unregister(end_at_exit)


def _follow(
    stream: IO[bytes], log: CompileLog, work: Path, folder: Path, tell: Callable[[CompileProgress], None]
) -> dict[str, str]:
    """The last event, empty when the process ended without one."""
    events: queue.Queue[dict[str, str] | None] = queue.Queue()

    def read() -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                events.put(json.loads(line))
        events.put(None)

    threading.Thread(target=read, name="compile-events", daemon=True).start()
    told = -TICK_S
    while True:
        with contextlib.suppress(queue.Empty):
            event = events.get(timeout=TICK_S)
            if event is None or "log" not in event:
                return event or {}
            log.read(event["log"])
        if time.monotonic() - told >= TICK_S or log.progress.stage == "starting":
            log.count(len(list(work.glob("*/_tp0_bk*/graph.neff"))), len(list(folder.glob("weights/*.safetensors"))))
            tell(log.progress)
            told = time.monotonic()


def _why(outcome: dict[str, str], process: subprocess.Popen[bytes], log: Path) -> str:
    if "error" in outcome:
        return outcome["error"]
    if "full" in outcome:
        return f"The disk filled up while the model was compiled ({outcome['full']}); nothing of it was kept."
    if "failed" in outcome:
        return f"The model could not be compiled ({outcome['failed']}); {log} has all that was said."
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    code = process.poll()
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
        return f"The process that compiled the model was ended by {name}{memory}; {log} has all that was said."
    return f"The process that compiled the model ended with exit code {code}; {log} has all that was said."


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and everything in its group."""
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
