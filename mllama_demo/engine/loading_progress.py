"""Says how much of a checkpoint is loaded and how long the rest takes. Knows no torch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from mllama_demo.chat.message_summary import duration

SHOW_S = 0.5  # the shortest time between two texts for the page
LOG_S = 10.0  # between two lines in the terminal
WINDOW_S = 15.0  # the rate is that of the last seconds, because tensors of different kinds take different times
SETTLED_S = 2.0  # before that, the rate says little


class LoadingProgress:
    """Turns counts of bytes into texts such as "3.1 of 21.3 GB, about 40 s left"."""

    def __init__(
        self, show: Callable[[str], None], log: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            show: Called with the text at most every SHOW_S seconds.
            log: Called with the text every LOG_S seconds.
        """
        self._show, self._log, self._clock = show, log, clock
        self._samples = deque([(clock(), 0)])
        self._shown, self._logged = float("-inf"), clock()

    def __call__(self, done: int, total: int) -> None:
        """Called with the number of bytes that are loaded, and that of all bytes."""
        now = self._clock()
        if now - self._shown < SHOW_S and done < total:
            return
        self._shown = now
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[1][0] >= WINDOW_S:
            self._samples.popleft()
        text = f"{_gigabytes(done, total)}{self._left(done, total)}"
        self._show(text)
        if now - self._logged >= LOG_S:
            self._logged = now
            self._log(text)

    def _left(self, done: int, total: int) -> str:
        (since, before), (now, _) = self._samples[0], self._samples[-1]
        if now - since < SETTLED_S or done <= before or done >= total:
            return ""
        seconds = (total - done) * (now - since) / (done - before)
        return f", about {duration(max(seconds, 1.0))} left"


def _gigabytes(done: int, total: int) -> str:
    unit, size = ("GB", 1e9) if total >= 1e9 else ("MB", 1e6)
    digits = 1 if size == 1e9 else 0
    return f"{done / size:.{digits}f} of {total / size:.{digits}f} {unit}"
