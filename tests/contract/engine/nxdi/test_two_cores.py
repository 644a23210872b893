"""Tensor parallelism over two cores in NxD's CPU mode: two processes with half of the weights each, which exchange sums."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.mark.timeout(600)
def test_four_slots_on_two_cores_are_answered_as_by_meta(embedded: Path, tmp_path: Path) -> None:
    processes = []
    for rank in range(2):
        words = [sys.executable, "-W", "ignore", "-m", "tests.contract.engine.nxdi.two_cores"]
        words += [str(embedded), str(tmp_path / "store"), str(rank)]
        log = (tmp_path / f"{rank}.txt").open("wb")
        processes.append(subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=540) for process in processes]
    finally:
        for process in processes:
            process.kill()
    told = "\n".join((tmp_path / f"{rank}.txt").read_text(errors="replace")[-3000:] for rank in range(2))
    assert codes == [0, 0], told
