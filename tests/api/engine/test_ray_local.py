"""The Ray cluster of one machine that `make run-ray` starts: nothing of it outlives the program that has started it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.waiting import wait_until

pytest.importorskip("ray", reason="Ray is not installed; pip install 'ray[serve]' to run these tests")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent"),
]

PROGRAM = """
import time
from scripts.local_ray import local_cluster
with local_cluster(1) as (address, environment):
    print(address, flush=True)
    time.sleep(600)
"""


def processes_of(port: str) -> list[str]:
    """The command lines of all processes of the cluster that has its head at this port."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if re.search(rf"(:|port=){port}\b", line):
            found.append(line)
    return found


def test_a_cluster_ends_with_the_program_that_started_it_also_when_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        port = program.stdout.readline().strip().rpartition(":")[2]
        if not port:  # such as too long a path of the folder for temporary files, or too little shared memory
            pytest.skip(program.stderr.read().strip().splitlines()[-1])
        before = " ".join(processes_of(port))
        assert "gcs_server" in before
        assert "raylet" in before
        program.kill()
    wait_until(lambda: not processes_of(port), lambda: f"nothing of the cluster is left, but there is {processes_of(port)}")
