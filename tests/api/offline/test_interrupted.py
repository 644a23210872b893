"""The command offline as a process that is interrupted or killed, and continues."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support import preloaded
from tests.support.program import clean_environment
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.timeout(600)
LINES = 40


def records(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may still be written to."""
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")
    return [json.loads(line) for line in whole.splitlines()]


def start(home: Path, number: int) -> preloaded.PreloadedProcess:
    """The command; what it writes goes to the files stdout-NUMBER and stderr-NUMBER."""
    options = ("offline", "batch.jsonl", "--output", "out.jsonl", "--device", "cpu")
    out, err = (home / f"{stream}-{number}" for stream in ("stdout", "stderr"))
    return preloaded.start("mllama_demo", options, home, clean_environment(home), out, err)


@pytest.mark.parametrize(
    ("how", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["ctrl-c", "term", "kill"],
)
def test_an_interrupted_batch_continues(how: signal.Signals, code: int, tmp_path: Path) -> None:
    questions = [{"prompt": f"What is {n} + {n}?", "temperature": 1.0, "max_tokens": 16} for n in range(LINES)]
    (tmp_path / "batch.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    out = tmp_path / "out.jsonl"

    first = start(tmp_path, 1)
    wait_until(lambda: len(records(out)) >= 3 or first.poll() is not None, "three answers")
    first.send_signal(how)
    ended = first.wait(PATIENCE_S)
    err = (tmp_path / "stderr-1").read_text()
    assert ended == code, err
    kept = records(out)
    assert 3 <= len(kept) < LINES
    if how != signal.SIGKILL:
        assert f"Interrupted: {len(kept)} of {LINES} answered" in err
        assert [record["line"] for record in kept] == sorted(record["line"] for record in kept)

    ended = start(tmp_path, 2).wait(PATIENCE_S)
    err = (tmp_path / "stderr-2").read_text()
    assert ended == 0, err
    assert (tmp_path / "stdout-2").read_text() == ""
    assert "\r" not in err, "no bar where there is no terminal"
    assert f"{LINES - len(kept)} of {LINES - len(kept)} answered ({len(kept)} more were answered before)" in err
    found = records(out)
    assert [record["line"] for record in found] == list(range(1, LINES + 1))
    assert all(record in found for record in kept), "finished lines stay as they were, to the last digit"
