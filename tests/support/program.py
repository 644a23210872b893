"""Starting the real program in a process of its own, watching it from outside, and ending it as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.support import preloaded
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE_S, wait_until

KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "OMP_WAIT_POLICY")


def clean_environment(home: Path) -> dict[str, str]:
    """Nothing of the caller's settings, proxies or caches; every temporary file below home."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {**kept, "HOME": str(home), "TMPDIR": str(home), "GRADIO_TEMP_DIR": str(home / "gradio")}


APP = ROOT / "app.py"


def command(*options: str, script: Path = APP) -> list[str]:
    return [sys.executable, str(script), *options]


def run(home: Path, *options: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The program to its end. python: options of the interpreter itself."""
    line = [sys.executable, *python, str(ROOT / "app.py"), *options]
    return subprocess.run(line, cwd=home, env=clean_environment(home), capture_output=True, text=True, timeout=PATIENCE_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def visitor() -> requests.Session:
    """An HTTP client with cookies of its own that talks to no proxy."""
    session = requests.Session()
    session.trust_env = False
    return session


@dataclass
class Program:
    """One running demo. url has no slash at its end."""

    process: subprocess.Popen[bytes] | preloaded.PreloadedProcess
    url: str
    home: Path
    killed: bool = False

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def stdout(self) -> str:
        return (self.home / "stdout.txt").read_text(encoding="utf-8")

    def stderr(self) -> str:
        return (self.home / "stderr.txt").read_text(encoding="utf-8")

    def output(self) -> str:
        return f"\n--- stdout\n{self.stdout()}\n--- stderr\n{self.stderr()}"

    def get(self, path: str) -> requests.Response | None:
        """The answer, or None while nobody listens."""
        try:
            with visitor() as session:
                return session.get(self.url + path, timeout=60)
        except requests.ConnectionError:
            assert self.process.poll() is None, f"the program ended with {self.process.returncode}{self.output()}"
            return None

    def health(self) -> dict[str, Any]:
        answer = self.get("/health")
        assert answer is not None
        return answer.json()

    def wait_ready(self) -> None:
        def ready() -> bool:
            answer = self.get("/health")
            return answer is not None and answer.status_code == 200

        try:
            wait_until(ready, "/health answers 200")
        except AssertionError as error:
            raise AssertionError(f"{error}{self.output()}") from None

    def kill(self) -> None:
        """Ends it without a chance to do anything about it, as a machine that loses its power."""
        self.killed = True
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            if isinstance(self.process, preloaded.PreloadedProcess):  # writes where its threads are to its log
                self.process.send_signal(signal.SIGUSR1)
                time.sleep(1)
            raise AssertionError(f"still running {PATIENCE_S} s after an interrupt{self.output()}") from None


@contextmanager
def running(
    home: Path,
    *options: str,
    tracebacks: bool = False,
    script: Path = APP,
    program: Sequence[str | Path] | None = None,
    preload: bool = True,
) -> Iterator[Program]:
    """The program on a free port, not necessarily ready. It must have ended cleanly, or is interrupted and must then.

    Args:
        tracebacks: Whether it may log some, as Gradio does for requests that no page of it would send.
        script: What to run.
        program: The words that start another program with the same options.
        preload: Whether the process has imported the heavy modules already. False for a test of the start.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    options = ("--port", str(port), "--data-dir", str(home / "data"), "--device", "cpu", *options)
    out, err = home / "stdout.txt", home / "stderr.txt"
    process: subprocess.Popen[bytes] | preloaded.PreloadedProcess
    if preload and program is None:
        out.touch()
        err.touch()
        process = preloaded.start(script, options, home, clean_environment(home), out, err)
    else:
        line = command(*options, script=script) if program is None else [*map(str, program), *options]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(line, cwd=home, env=clean_environment(home), stdout=stdout, stderr=stderr)
    started = Program(process, f"http://127.0.0.1:{port}", home)
    try:
        yield started
        if process.poll() is None:
            started.interrupt()
        assert started.killed or process.returncode in (0, 130), f"exit code {process.returncode}{started.output()}"
        assert tracebacks or "Traceback" not in started.stderr(), started.output()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
