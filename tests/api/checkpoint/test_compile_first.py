"""Serving a model that is not compiled yet: the page is up and says how far the compilation is; ending the demo ends it all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.program import Program, clean_environment, free_port
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.timeout(600)
FAKE_SDK = ROOT / "tests" / "support" / "fake_sdk"
# The program as it is, on a machine with a Neuron device. The process of the model imports this file, too.
START = """
import os
import sys
from pathlib import Path
from mllama_demo.checkpoint import machine
machine.ROOT = Path(os.environ["MACHINE"])
if __name__ == "__main__":
    import app
    sys.exit(app.main(sys.argv[1:]))
"""


@pytest.fixture
def compiling(tmp_path: Path, embedded: Path) -> Iterator[Program]:
    """Half-way through a compilation that takes minutes."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "neuron0").touch()
    port = free_port()
    options = ["--port", str(port), "--data-dir", str(tmp_path / "data"), "--backend", "neuron", "--tensor-parallel-size", "1"]
    options += ["--model-path", str(embedded), "--compiled-artifacts", str(tmp_path / "artifacts")]
    environment = clean_environment(tmp_path) | {"FAKE_COMPILE": "stop", "MACHINE": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, FAKE_SDK, FAKE_SDK / "light")))
    with (tmp_path / "stdout.txt").open("wb") as out, (tmp_path / "stderr.txt").open("wb") as err:
        (tmp_path / "start.py").write_text(START)
        line = [sys.executable, str(tmp_path / "start.py"), *options]
        process = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=out, stderr=err)
    program = Program(process, f"http://127.0.0.1:{port}", tmp_path)
    try:
        yield program
    finally:
        process.kill()
        process.wait()


def compiler(program: Program) -> int:
    logs = "".join(file.read_text() for file in (program.home / "artifacts").glob("*.compiling/log"))
    found = re.search(r"compiler flags: (\d+)", logs)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_page_tells_how_far_it_is_and_the_end_leaves_nothing(compiling: Program, name: str):
    def told() -> bool:
        answer = compiling.get("/health")
        return answer is not None and "compiling, 1 of 4 graphs done" in answer.json().get("reason", "")

    wait_until(told, "a compilation that tells how far it is", timeout=2 * PATIENCE_S)
    health, page = compiling.get("/health"), compiling.get("/")
    assert health is not None
    assert (health.status_code, health.json()["status"]) == (503, "loading")
    assert re.match(r"compiling it first, \d+%, compiling, 1 of 4 graphs done, \d+:\d\d$", health.json()["reason"])
    assert page is not None
    assert page.status_code == 200
    running = compiler(compiling)
    assert Path(f"/proc/{running}").exists()

    compiling.process.send_signal(signal.Signals[name])
    assert compiling.process.wait(PATIENCE_S) in (0, 130)
    assert "Traceback" not in compiling.stderr(), compiling.output()
    assert "could not be loaded" not in compiling.stderr(), compiling.output()
    assert not (compiling.home / "artifacts").exists(), compiling.output()

    def gone() -> bool:
        stat = Path(f"/proc/{running}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    wait_until(gone, "the end of the compiler")
