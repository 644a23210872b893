"""Programs that end with the process that has started them, also when that one is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent"),
]

PARENT = """
import subprocess, sys, time
from mllama_demo.runtime.with_parent import with_parent
child = subprocess.Popen(with_parent([sys.executable, "-c", "import time; print('runs', flush=True); time.sleep(600)"]),
                         stdout=subprocess.PIPE, text=True, start_new_session=True)
assert child.stdout.readline() == "runs\\n"
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def runs(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_ends_with_a_parent_that_is_killed(parent):
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert runs(child)
    parent.kill()
    wait_until(lambda: not runs(child), "the child has ended")


def test_a_program_whose_parent_has_ended_meanwhile_does_not_begin():
    line = [sys.executable, "-m", "mllama_demo.runtime.with_parent", str(os.getppid()), sys.executable, "-c", "print('runs')"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
