"""Half a minute of `make soak`: every request ends once and rightly, and nothing leaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.program import clean_environment


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the figures of processes are read from Linux's /proc")
def test_half_a_minute_with_a_hundred_clients(tmp_path: Path) -> None:
    # How long /health takes is measured, not tested.
    line = [sys.executable, "-m", "benchmarks", "soak", "--minutes", "0.5", "--clients", "100", "--health-s", "300"]
    done = subprocess.run(line, cwd=ROOT, env=clean_environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answered" in done.stdout
