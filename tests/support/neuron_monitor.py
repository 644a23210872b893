"""A program in the place of neuron-monitor, which runs on Neuron instances only: it plays a stream of reports.

data/neuron_monitor.jsonl of the tests of the engine has four reports of a trn1.32xlarge: without an application, while a model is
loaded, while it answers, and with errors. They were not recorded on an instance. They have every field that AWS documents in the
"Neuron Monitor User Guide" (github.com/aws-neuron/aws-neuron-sdk, tools/neuron-sys-tools/neuron-monitor-user-guide.rst).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

STREAM = ROOT / "tests" / "unit" / "engine" / "data" / "neuron_monitor.jsonl"
_PLAYER = """\
#!{python}
import sys, time
for line in open({stream!r}, encoding="utf-8"):
    sys.stdout.write(line)
    sys.stdout.flush()
{end}
"""


def reports() -> list[dict[str, Any]]:
    """The reports of the stream."""
    return [json.loads(line) for line in STREAM.read_text(encoding="utf-8").splitlines()]


def write_player(file: Path, *lines: str, end: str = "time.sleep(600)") -> Path:
    """Writes a program that prints the lines, or the whole stream, and then does what the Python statement `end` says."""
    stream = STREAM
    if lines:
        stream = file.with_suffix(".txt")
        stream.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    file.write_text(_PLAYER.format(python=sys.executable, stream=str(stream), end=end), encoding="utf-8")
    file.chmod(0o755)
    return file
