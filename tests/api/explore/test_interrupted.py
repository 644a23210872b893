"""The command `explore`, interrupted by a signal: it prints and writes the answers so far."""

from __future__ import annotations

import csv
import os
import re
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mllama_demo.explore.import_export import from_json
from tests.support import preloaded
from tests.support.program import clean_environment
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
        self.own, self._end = os.openpty()
        self.path = Path(os.ttyname(self._end))
        self.text = ""

    def read_until(self, done: Callable[[], object]) -> None:
        """Reads what comes until the condition is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, self.text
            if select.select([self.own], [], [], 0.02)[0]:
                self.text += os.read(self.own, 65536).decode()

    def close(self) -> None:
        os.close(self.own)
        os.close(self._end)


class Command:
    """The command `explore` with its stderr at a terminal."""

    def __init__(self, home: Path) -> None:
        (home / "grid.yaml").write_text(GRID)
        self.terminal, self._stdout = Terminal(), home / "stdout.txt"
        options = ("explore", "--spec", "grid.yaml", *FILES, "--device", "cpu")
        environment = clean_environment(home)
        self._process = preloaded.start("mllama_demo", options, home, environment, self._stdout, self.terminal.path)

    def interrupt(self, after: str, how: signal.Signals) -> tuple[int, str]:
        """Sends the signal once the pattern is on the terminal. Returns the exit code and what the command printed."""
        process, terminal = self._process, self.terminal
        terminal.read_until(lambda: re.search(after, terminal.text) or process.poll() is not None)
        assert process.poll() is None, terminal.text
        process.send_signal(how)
        terminal.read_until(lambda: process.poll() is not None)
        terminal.read_until(lambda: not select.select([terminal.own], [], [], 0)[0])
        terminal.close()
        return process.wait(), self._stdout.read_text(encoding="utf-8")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_an_interrupted_run_prints_and_writes_the_answers_so_far(how: signal.Signals, tmp_path: Path) -> None:
    command = Command(tmp_path)
    code, shown = command.interrupt(rf"[1-9] of {CELLS} cells", how)
    told = command.terminal.text
    assert code == 130, told
    assert "Traceback" not in told
    run = from_json((tmp_path / "run.json").read_bytes())
    outcomes = [cell.outcome for cell in run.cells]
    complete = sum(cell.complete for cell in run.cells)
    assert 1 <= complete < CELLS
    assert complete + outcomes.count("cancelled") == CELLS
    assert any(cell.tokens for cell in run.cells if not cell.complete), "interrupted cells keep their tokens"
    assert f"Interrupted: {complete} of {CELLS} cells answered." in told
    assert shown.count("cancelled") == CELLS - complete
    assert [row["outcome"] for row in csv.DictReader((tmp_path / "run.csv").open())] == outcomes
    assert "stopped" in (tmp_path / "run.html").read_text()


def test_an_interrupt_before_the_first_cell_writes_nothing(tmp_path: Path) -> None:
    command = Command(tmp_path)
    assert command.interrupt("loading|Loading", signal.SIGTERM) == (130, "")
    assert "Traceback" not in command.terminal.text
    assert not (tmp_path / "run.json").exists()
