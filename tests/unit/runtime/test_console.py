"""No output stream ends the program: one whose encoding lacks a character, one that is closed, one that is full, none at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PRINT = """
import sys
from mllama_demo.runtime.console import announce, report_error, tolerate_every_character
tolerate_every_character()
print("こんにちは …")
announce("東京")
report_error("大阪")
"""


def ran(code: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    environ = {"PATH": "", "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp1252:strict", "utf-8"])
def test_every_character_is_written_in_every_encoding(encoding):
    ended = ran(PRINT, PYTHONIOENCODING=encoding)
    assert ended.returncode == 0, ended.stderr
    name = encoding.partition(":")[0]
    assert ended.stdout.decode(name) == "こんにちは …\n東京\n".encode(name, "backslashreplace").decode(name)
    assert "大阪".encode(name, "backslashreplace") in ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, of Linux")
def test_a_line_for_the_operator_may_meet_a_full_disk():
    code = "import sys; sys.stdout = sys.stderr = open('/dev/full', 'w'); from mllama_demo.runtime.console import *; "
    ended = ran(code + "announce('ready'); code = report_error('no'); sys.stdout = sys.stderr = None; sys.exit(code)")
    assert ended.returncode == 2


def test_a_program_without_streams_still_starts_and_ends():
    code = "import sys; sys.stdout = sys.stderr = None; import app; app.exit_process(app.main(['--port', '0']))"
    assert ran(code).returncode == 2


def test_a_full_disk_ends_a_command_with_a_sentence():
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, of Linux")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "mllama_demo", "plan", "--shape", "11B"],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert ended.stderr == "mllama-demo: The output cannot be written: No space left on device.\n"
    assert ended.returncode == 2
