"""Temporary folders go with the process, also with one that was killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mllama_demo.runtime import temporary
from mllama_demo.runtime.temporary import PREFIX, TemporaryFolder
from tests.support.paths import ROOT

MAKE = """
import os, signal
from mllama_demo.runtime.temporary import TemporaryFolder
print(TemporaryFolder().path, flush=True)
{end}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def made_by_another_process(place: Path, end: str) -> Path:
    line = [sys.executable, "-c", MAKE.format(end=end)]
    done = subprocess.run(line, cwd=ROOT, env={"TMPDIR": str(place)}, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip())


def test_the_folder_of_a_process_that_ends_is_gone(place: Path) -> None:
    assert not made_by_another_process(place, "").exists()


def test_the_next_start_removes_what_a_killed_process_has_left(place: Path) -> None:
    left = made_by_another_process(place, "os.kill(os.getpid(), signal.SIGKILL)")
    assert left.is_dir()
    (left / "upload").write_text("a photo")
    (place / f"{PREFIX}a file").touch()
    (place / "not ours").mkdir()
    first = TemporaryFolder()
    assert not left.exists()
    second = TemporaryFolder()
    assert first.path.is_dir(), "a folder that a process uses stays"
    first.close()
    first.close()
    assert not first.path.exists()
    assert second.path.is_dir()
    second.close()
    assert {path.name for path in place.iterdir()} == {f"{PREFIX}a file", "not ours"}


def test_a_process_that_starts_at_the_same_time_leaves_a_new_folder_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = temporary.exclusive_lock

    def lock_after_another_start(path: Path, work: str) -> AbstractContextManager[bool]:
        monkeypatch.setattr(temporary, "exclusive_lock", lock)
        TemporaryFolder().close()
        return lock(path, work)

    monkeypatch.setattr(temporary, "exclusive_lock", lock_after_another_start)
    folder = TemporaryFolder()
    TemporaryFolder().close()
    assert list(place.iterdir()) == [folder.path]
    folder.close()
    assert list(place.iterdir()) == []
