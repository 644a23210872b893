"""Follows how much of a compiled model's weights has been read while NxDI loads them.

NxDI maps the file of each core (safetensors.torch.load_file) and copies from the mappings to the device. The pages of mapped
files in the memory of this process therefore grow by the size of the weights, whether the disk or the page cache has them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

TICK_S = 0.5
STATUS = Path("/proc/self/status")
_MAPPED = re.compile(r"^RssFile:\s+(\d+) kB$", re.MULTILINE)


def weights_size(artifact: Path) -> int:
    """The bytes of the weights of all cores in an artifact."""
    return sum(file.stat().st_size for file in artifact.glob("weights/*.safetensors"))


def mapped_bytes() -> int | None:
    """The bytes of mapped files in the memory of this process; None where the system does not say."""
    try:
        found = _MAPPED.search(STATUS.read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


class WeightsProgress:
    """Calls `report` with the bytes that are read and with all bytes, every TICK_S seconds from start() to stop()."""

    def __init__(self, artifact: Path, report: Callable[[int, int], None]) -> None:
        self._total, self._report = weights_size(artifact), report
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        before = mapped_bytes()
        if before is None or not self._total or self._thread is not None:
            return
        self._thread = threading.Thread(target=self._follow, args=(before,), name="weights-progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when nothing more will be reported."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _follow(self, before: int) -> None:
        done = 0
        while not self._end.wait(TICK_S):
            # The system may drop mapped pages again; what was read once stays read.
            done = max(done, (mapped_bytes() or 0) - before)
            self._report(min(done, self._total), self._total)
