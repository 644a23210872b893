"""How fast a machine is from moment to moment, by a computation beside what is measured.

The processor of a machine that others share is now slower and now faster. Questions wait longest while it is slow, and a profile
that has only mean times does not know that.
"""

from __future__ import annotations

import bisect
import statistics
import time
from collections.abc import Callable

from mllama_demo.engine.simulated.profile import SLOWNESS_PERIOD_S

REFERENCE_EVERY_S = 0.03


class Reference:
    """Times of one and the same computation, taken while something else is measured.

    Its clock stands still during the computation, so that what is measured with the clock does not last longer.
    """

    def __init__(self, compute: Callable[[], object]) -> None:
        self._compute = compute
        self._spent_s = 0.0
        self._times: list[float] = []  # by the clock, when each computation was
        self._took_s: list[float] = []

    def now(self) -> float:
        """Seconds of the clock."""
        return time.perf_counter() - self._spent_s

    def take(self) -> float:
        """Computes, and returns the seconds that the computation took."""
        began = time.perf_counter()
        self._compute()
        took_s = time.perf_counter() - began
        self._times.append(self.now())
        self._took_s.append(took_s)
        self._spent_s += time.perf_counter() - began
        return took_s

    def take_if_due(self) -> None:
        if not self._times or self.now() - self._times[-1] >= REFERENCE_EVERY_S:
            self.take()

    def slowness(self, begin: float, end: float, usual_s: float) -> list[float]:
        """How many times as long as usual the computations of each SLOWNESS_PERIOD_S between two times took.

        A period without a computation has the value of the one before it.
        """
        found: list[float] = []
        for period in range(int((end - begin) / SLOWNESS_PERIOD_S) + 1):
            first = begin + period * SLOWNESS_PERIOD_S
            low, high = bisect.bisect_left(self._times, first), bisect.bisect_left(self._times, first + SLOWNESS_PERIOD_S)
            if low < high:
                found.append(statistics.fmean(self._took_s[low:high]) / usual_s)
            else:
                found.append(found[-1] if found else 1.0)
        return found
