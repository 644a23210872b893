"""Starts programs in forked processes that have imported PyTorch, transformers and Gradio already.

These imports are most of what a start of the demo costs, and the browser tests start the demo some twenty times. The start itself
is tested with processes of their own (tests/api/web/test_start.py and tests/api/test_installed.py).
"""

from __future__ import annotations

import atexit
import faulthandler
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from mllama_demo.engine.process import child_handle


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
    script: Path | str, options: Sequence[str], cwd: Path, environment: dict[str, str], stdout: Path, stderr: Path
) -> PreloadedProcess:
    """Runs a Python script, as `python script options` does, or a package, as `python -m package options` does.

    Args:
        script: The file, or the name of the package.
        stdout: The file that its output goes to.
        stderr: The file that its errors and log lines go to.
    """
    process = _context().Process(target=_run, args=(script, list(options), cwd, environment, stdout, stderr), name=str(script))
    process.start()
    return PreloadedProcess(process)


@cache
def _context() -> ForkServerContext:
    """The server that imports the modules and forks. It ends with this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.heavy_modules"])
    return context


class PreloadedEngine:
    """The context in which the process of a preloaded program's model starts, as child_handle.CONTEXT: it is forked from the
    same server, which has imported PyTorch and computed nothing with it.

    Args:
        stdout, stderr: The files of the program.
    """

    def __init__(self, stdout: Path, stderr: Path) -> None:
        self._files = stdout, stderr
        self._context = multiprocessing.get_context("forkserver")
        # The program is a child of the server and knows its address. Python would start another server all the same.
        multiprocessing.forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]

    def Pipe(self, duplex: bool = True) -> tuple[Connection, Connection]:
        return self._context.Pipe(duplex)

    def Process(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> ForkServerProcess:
        everything = (target, args, dict(os.environ), *self._files)
        return self._context.Process(target=_run_engine, args=everything, name=name)


def _run_engine(
    target: Callable[..., None], args: tuple[Any, ...], environment: dict[str, str], stdout: Path, stderr: Path
) -> None:
    _become(environment, stdout, stderr)
    target(*args)


def _become(environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    """Gives a forked process the files and the environment of its program."""
    for path, stream, name in ((stdout, 1, "stdout"), (stderr, 2, "stderr")):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, stream)
        os.close(file)
        # The old object remembers what kind of file it had: a terminal cannot be sought.
        setattr(sys, name, open(stream, "w", buffering=1, encoding=getattr(sys, name).encoding, closefd=False))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # from the variable TMPDIR, which the imports have read in another environment


def _run(script: Path | str, options: list[str], cwd: Path, environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    _become(environment, stdout, stderr)
    os.chdir(cwd)
    child_handle.CONTEXT = PreloadedEngine(stdout, stderr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.register(signal.SIGUSR1)  # see Program.interrupt
    sys.argv = [str(script), *options]
    try:
        if isinstance(script, str):
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(script.parent))
            runpy.run_path(str(script), run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends a process without them
