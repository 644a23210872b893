"""The scripts in examples/, run as a reader of the documentation runs them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.paths import ROOT
from tests.support.program import Program, clean_environment, free_port, visitor
from tests.support.waiting import wait_until

EXAMPLES = ROOT / "examples"
OWN_BACKEND = "own_backend.py"
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


@pytest.fixture
def own_backend(tmp_path: Path) -> Iterator[str]:
    """The base URL of examples/own_backend.py, ready to answer."""
    url = f"http://127.0.0.1:{free_port()}"
    environment = {**clean_environment(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(EXAMPLES / OWN_BACKEND), url], cwd=tmp_path, env=environment)

    def ready() -> bool:
        assert process.poll() is None, "the example ended"
        try:
            with visitor() as session:
                return session.get(f"{url}/health", timeout=60).status_code == 200
        except requests.ConnectionError:
            return False

    try:
        wait_until(ready, f"{OWN_BACKEND} answers")
        yield url
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


def test_the_own_backend_answers_through_the_api(own_backend: str, tmp_path: Path) -> None:
    assert run_example("stream_answer.py", own_backend, tmp_path).startswith("story. a me Tell\n4 tokens;")


def test_no_example_is_left_out() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == {*OUTPUT, OWN_BACKEND}
