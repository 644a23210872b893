"""Notices that the clock of the machine was set back. Durations are measured with time.monotonic(), which never is."""

from __future__ import annotations

import time

_TOLERANCE_S = 30.0  # smaller corrections matter to nothing that is counted by the clock


class WallClock:
    """Compares the clock of the machine with one that cannot be set."""

    def __init__(self) -> None:
        self._ahead = _ahead()

    def was_set_back(self) -> bool:
        """Whether the clock was set back since the last call, or since the object was made."""
        before, self._ahead = self._ahead, _ahead()
        return self._ahead < before - _TOLERANCE_S


def _ahead() -> float:
    return time.time() - time.monotonic()
