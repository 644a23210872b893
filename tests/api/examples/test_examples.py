"""The scripts in examples/, run as a reader of the documentation runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.program import ROOT, Program, clean_environment

EXAMPLES = ROOT / "examples"
TIMEOUT_S = 120
# What each script must print at the least.
OUTPUT = {
    "ask_about_image.py": ["dog"],
    "stream_answer.py": ["tokens; the first text came after"],
    "seeds_and_logprobs.py": ["the same answer", "1.00   of"],
    "explore_over_http.py": ["temperature 0.2, seed 1: ", "temperature 1.4, seed 2: ", "6 cells by embedded."],
}


def run_example(name: str, url: str, home: Path) -> str:
    """Runs a script against a server; what it prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), url],
        cwd=home,
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", OUTPUT)
def test_an_example_runs_against_a_server(name: str, server: Program, tmp_path: Path) -> None:
    printed = run_example(name, server.url, tmp_path)
    for text in OUTPUT[name]:
        assert text in printed


def test_no_example_is_left_out() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == {*OUTPUT}
