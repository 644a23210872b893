"""Starts programs in forked processes that have imported PyTorch, transformers and Gradio already.

These imports are most of what a start of the demo costs, and the browser tests start the demo some twenty times. The start itself
is tested with processes of their own (tests/api/web/test_start.py and tests/api/test_installed.py).
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path


class PreloadedProcess:
    """One program, with the methods of subprocess.Popen that the tests use."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process.name), timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    script: Path, options: Sequence[str], cwd: Path, environment: dict[str, str], stdout: Path, stderr: Path
) -> PreloadedProcess:
    """Runs a Python script, as `python script options` does.

    Args:
        stdout: The file that its output goes to.
        stderr: The file that its errors and log lines go to.
    """
    process = _context().Process(target=_run, args=(script, list(options), cwd, environment, stdout, stderr), name=script.name)
    process.start()
    return PreloadedProcess(process)


@cache
def _context() -> ForkServerContext:
    """The server that imports the modules and forks. It ends with this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.heavy_modules"])
    return context


def _run(script: Path, options: list[str], cwd: Path, environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    for path, stream in ((stdout, 1), (stderr, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, stream)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # from the variable TMPDIR, which the imports have read in another environment
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [str(script), *options]
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends a process without them
