"""Counts for limits of visitors in the memory of this process, as a storage of the library `limits`.

The storage of the library (5.8.0) counts by the clock of the machine. A clock that is set back would refuse visitors for as long,
and one that is set forward would forget what they have used. This storage counts by time.monotonic(), also in what it returns.
"""

from __future__ import annotations

import math
import time
from collections import deque

from limits.aio.storage import MovingWindowSupport, Storage

_SWEEP_S = 60.0  # between two removals of what has expired


class MemoryStorage(Storage, MovingWindowSupport):
    """For FixedWindowRateLimiter and MovingWindowRateLimiter. Nothing is awaited between a reading and a change of a count."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, tuple[int, float]] = {}  # of fixed windows, each with its end
        self._entries: dict[str, tuple[deque[float], float]] = {}  # of moving windows, the newest first, with the end of that one
        self._swept = time.monotonic()

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = self._sweep()
        count, end = self._counts.get(key, (0, 0.0))
        count, end = (count + amount, end) if now < end else (amount, now + expiry)
        self._counts[key] = count, end
        return count

    async def get(self, key: str) -> int:
        count, end = self._counts.get(key, (0, 0.0))
        return count if time.monotonic() < end else 0

    async def get_expiry(self, key: str) -> float:
        now = time.monotonic()
        return max(now, self._counts.get(key, (0, now))[1])

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        now = self._sweep()
        entries = self._window(key, now - expiry)
        if len(entries) + amount > limit:
            return False
        entries.extendleft([now] * amount)
        self._entries[key] = entries, now + expiry
        return True

    def remove_newest(self, key: str, amount: int) -> None:
        """Removes so many entries of a moving window."""
        entries = self._window(key, -math.inf)
        for _ in range(min(amount, len(entries))):
            entries.popleft()

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        now = time.monotonic()
        entries = self._window(key, now - expiry)
        return (entries[-1] if entries else now), len(entries)

    def _window(self, key: str, start: float) -> deque[float]:
        """The entries of a key that are not older than `start`."""
        entries = self._entries.get(key, (deque[float](), 0.0))[0]
        while entries and entries[-1] < start:
            entries.pop()
        return entries

    def _sweep(self) -> float:
        """Removes what has expired, once in a while. Returns the time."""
        now = time.monotonic()
        if now - self._swept >= _SWEEP_S:
            self._swept = now
            self._counts = {key: kept for key, kept in self._counts.items() if kept[1] > now}
            self._entries = {key: kept for key, kept in self._entries.items() if kept[1] > now}
        return now

    async def check(self) -> bool:
        return True

    async def reset(self) -> int:
        number = len(self._counts) + len(self._entries)
        self._counts.clear()
        self._entries.clear()
        return number

    async def clear(self, key: str) -> None:
        self._counts.pop(key, None)
        self._entries.pop(key, None)
