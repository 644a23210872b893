"""`python -m benchmarks faults`: no question is lost, and none is answered twice, whatever fails or changes meanwhile."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.postgres import missing_postgres

pytest.importorskip("ray", reason="Ray is not installed; pip install 'ray[serve]' to run these tests")


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_question_is_lost_while_parts_of_a_cluster_fail_or_change() -> None:
    if missing := missing_postgres():
        pytest.skip(missing)
    line = [sys.executable, "-m", "benchmarks", "faults"]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as benchmark:
        try:
            out, err = benchmark.communicate()
        finally:  # at the time limit of the test the benchmark ends what it has started
            benchmark.terminate()
            try:
                benchmark.wait(60)
            finally:
                benchmark.kill()
    if "Ray does not start" in err:
        pytest.skip(err.strip().splitlines()[-1])
    assert benchmark.returncode == 0, out + err
    assert out.count(" 0\n") == 5, "five rows of figures, nothing twice"
