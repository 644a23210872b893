"""Which clock is used where: that of the machine may be set by hours at any moment, so nothing measures durations with it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

import mllama_demo

PACKAGE = Path(mllama_demo.__file__).parent
READS = {"time.time", "time.time_ns", "time.gmtime", "time.localtime", "datetime.now", "datetime.utcnow", "date.today"}
# Every place that needs the date: how often, and for what.
ALLOWED = {
    "chat/export.py": (1, "the date in a file"),
    "checkpoint/compilation/artifacts.py": (1, "the date of a compiled model"),
    "explore/results.py": (1, "the date of a run"),
    "openai_api/completion.py": (1, "the field created"),
    "openai_api/routes.py": (1, "the field created"),
    "present/recording.py": (1, "the date of a recording"),
    "runtime/clock.py": (1, "notices that the clock was set back"),
    "runtime/failures.py": (1, "when a failure happened, for the operator"),
    "storage/database.py": (1, "dates in the tables"),
    "ui/chat_page.py": (1, "a value that differs from the one before"),
    "verify/command.py": (1, "the date of a report"),
    "web/activity.py": (1, "which minute it is"),
    "web/admin/figures.py": (1, "which minute it is"),
    "web/admin/routes.py": (1, "the date in the name of a file"),
    "web/limits.py": (1, "the library limits counts by it; see runtime/clock.py"),
    "web/share/export.py": (1, "the date in a file"),
}
# In a browser: what is shown as a date, what two windows share, and what must count while a machine sleeps.
DATES_IN_SCRIPTS = {"ui/static/kiosk.js": 1, "present/web/static/stage.js": 1, "present/web/static/keys.js": 1}


@pytest.mark.slow
def test_the_clock_of_the_machine_is_read_for_dates_alone() -> None:
    found: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in READS:
                found[path.relative_to(PACKAGE).as_posix()] += 1
    assert dict(found) == {path: count for path, (count, _) in ALLOWED.items()}


def test_scripts_measure_durations_with_a_clock_that_is_never_set() -> None:
    found: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.js"):
        count = len(re.findall(r"\bDate\.now\(\)", path.read_text(encoding="utf-8")))
        found[path.relative_to(PACKAGE).as_posix()] += count
    assert dict(+found) == DATES_IN_SCRIPTS
