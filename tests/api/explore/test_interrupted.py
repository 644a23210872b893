"""The command `explore`, interrupted by a signal: it prints and writes the answers so far."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mllama_demo.explore.import_export import from_json
from tests.support.program import start_command
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.timeout(400)
CELLS = 14
# Long answers, four at a time: they take some seconds.
GRID = f"""
prompt: "{"x " * 299}x"
temperature: [0, 1]
seed: [1, 2, 3, 4, 5, 6, 7]
top_p: 1
max_tokens: 250
"""
FILES = ("--output", "run.json", "--csv", "run.csv", "--html", "run.html")


class Terminal:
    """A pseudo-terminal for the stderr of a process, and the text that the process writes."""

    def __init__(self) -> None:
        self._own, self.end = os.openpty()
        self.text = ""

    def read(self) -> bool:
        """Reads more text. Returns False at the end."""
        try:
            self.text += os.read(self._own, 65536).decode()
        except OSError:  # the process has closed its end
            return False
        return True

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text
            assert self.read(), f"it ended without writing {pattern!r}: {self.text}"

    def close(self) -> None:
        while self.read():
            pass
        os.close(self._own)


def start(home: Path, terminal: Terminal) -> subprocess.Popen[str]:
    (home / "grid.yaml").write_text(GRID)
    process = start_command(home, "explore", "--spec", "grid.yaml", *FILES, "--device", "cpu", stderr=terminal.end)
    os.close(terminal.end)
    return process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_an_interrupted_run_prints_and_writes_the_answers_so_far(how: signal.Signals, tmp_path: Path) -> None:
    terminal = Terminal()
    process = start(tmp_path, terminal)
    terminal.wait_for(rf"[1-9] of {CELLS} cells")
    process.send_signal(how)
    shown, _ = process.communicate(timeout=PATIENCE_S)
    terminal.close()
    assert process.returncode == 130, terminal.text
    assert "Traceback" not in terminal.text
    run = from_json((tmp_path / "run.json").read_bytes())
    outcomes = [cell.outcome for cell in run.cells]
    complete = sum(cell.complete for cell in run.cells)
    assert 1 <= complete < CELLS
    assert complete + outcomes.count("cancelled") == CELLS
    assert any(cell.tokens for cell in run.cells if not cell.complete), "interrupted cells keep their tokens"
    assert f"Interrupted: {complete} of {CELLS} cells answered." in terminal.text
    assert shown.count("cancelled") == CELLS - complete
    assert [row["outcome"] for row in csv.DictReader((tmp_path / "run.csv").open())] == outcomes
    assert "stopped" in (tmp_path / "run.html").read_text()


def test_an_interrupt_before_the_first_cell_writes_nothing(tmp_path: Path) -> None:
    terminal = Terminal()
    process = start(tmp_path, terminal)
    terminal.wait_for("loading|Loading")
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=PATIENCE_S)
    terminal.close()
    assert (process.returncode, shown) == (130, "")
    assert "Traceback" not in terminal.text
    assert not (tmp_path / "run.json").exists()
