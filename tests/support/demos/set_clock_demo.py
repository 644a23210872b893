"""The demo on a machine whose clock is set. Options as for app.py.

A file named `clock` in the working folder has the hours by which the clock is wrong. Only the clock is set: durations, and
whatever else is measured with time.monotonic(), go on as before.
"""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import app
from mllama_demo.storage.database import Database

CLOCK = Path("clock")
right = time.time


def wrong() -> float:
    with contextlib.suppress(OSError, ValueError):
        return right() + 3600 * float(CLOCK.read_text())
    return right()


def wrong_now(self: Database) -> datetime:
    return datetime.fromtimestamp(wrong(), timezone.utc).replace(tzinfo=None)


time.time, Database.now = wrong, wrong_now

if __name__ == "__main__":
    sys.exit(app.main(sys.argv[1:]))
