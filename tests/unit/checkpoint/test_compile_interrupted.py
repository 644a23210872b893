"""A compilation that is ended half-way, in whatever way, leaves no artifact and no compiler running."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.neuron_fakes import ROOT, worker_path
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(180)
PATIENCE_S = 90


class Compilation:
    """The verb `compile` in a process of its own, with a compiler that runs until it is ended."""

    def __init__(self, home: Path, model: Path, **environ: str) -> None:
        self.root = home / "artifacts"
        options = ["--model-path", str(model), "--compiled-artifacts", str(self.root), "--tensor-parallel-size", "1"]
        path = os.pathsep.join((str(ROOT), worker_path(), *filter(None, [environ.get("PYTHONPATH")])))
        # The real PyTorch is not imported by this process, and by the one that compiles the light one is.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mllama_demo", "compile", *options],
            env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": path, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts what runs in its background, and so perhaps these tests, deaf to Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def log(self) -> str:
        return "".join(file.read_text() for file in self.root.glob("*.compiling/log"))

    def compiler(self) -> int:
        """The process that NxDI started, once it runs."""
        return int(wait_until(lambda: re.search(r"compiler flags: (\d+)", self.log()), "a compiler that runs")[1])

    def worker(self, compiler: int) -> int:
        return int(Path(f"/proc/{compiler}/stat").read_text().rpartition(")")[2].split()[1])

    def ended(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, err

    def left(self) -> list[str]:
        return sorted(file.name for file in self.root.iterdir()) if self.root.exists() else []


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has asked about since counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def start(tmp_path: Path, embedded: Path) -> Iterator[Callable[..., Compilation]]:
    running: list[Compilation] = []

    def run(how: str = "stop") -> Compilation:
        running.append(Compilation(tmp_path, embedded, FAKE_COMPILE=how))
        return running[-1]

    yield run
    for one in running:
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
        one.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_compilation_leaves_no_folder_and_no_process(start, name):
    one = start()
    compiler = one.compiler()
    worker = one.worker(compiler)
    one.process.send_signal(signal.Signals[name])
    code, err = one.ended()
    assert code == 2
    assert err == "mllama-demo: The compilation was interrupted; nothing of it was kept.\n"
    assert not one.root.exists()
    wait_until(lambda: gone(compiler) and gone(worker), "the end of all that was started")


@pytest.mark.slow
def test_the_next_compilation_removes_the_work_folder_of_a_killed_one(start):
    one = start()
    compiler = one.compiler()
    worker = one.worker(compiler)
    one.process.kill()
    wait_until(lambda: gone(compiler) and gone(worker), "the end of all that was started")
    (leftover,) = one.left()
    assert leftover.endswith(".compiling")
    (one.root / "another.compiling").mkdir()
    code, err = start("").ended()
    assert (code, err) == (0, "")
    assert one.left() == [leftover.removesuffix(".compiling")]


@pytest.mark.slow
def test_two_processes_do_not_compile_the_same_model(start):
    first = start()
    compiler = first.compiler()
    code, err = start("").ended()
    assert code == 2
    assert "Another compilation is writing to" in err
    assert not gone(compiler), "the first goes on"
    assert first.left()[0].endswith(".compiling")


@pytest.mark.slow
def test_a_crash_of_the_worker_ends_its_compilers(start):
    one = start()
    compiler = one.compiler()
    os.kill(one.worker(compiler), signal.SIGSEGV)
    code, err = one.ended()
    assert code == 2
    assert "ended by SIGSEGV" in err
    wait_until(lambda: gone(compiler), "the end of the compiler")
    assert [Path(name).suffix for name in one.left()] == [".log"]
