"""A limit on the memory that all requests take together. Counts bytes that callers announce; measures nothing."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from mllama_demo.errors import ServerBusy


class Reservation:
    """Bytes that are counted as used until release(). Safe to use from several threads."""

    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self._budget, self._size = budget, size

    def resize(self, size: int) -> None:
        """Counts `size` bytes from now on. Never waits and never refuses: the memory is taken already."""
        self._budget._change(size - self._size)
        self._size = size

    def grow_to(self, size: int, limit: int) -> None:
        """Counts `size` bytes from now on. Raises ServerBusy when all reservations together would exceed `limit`."""
        self._budget.reserve(size - self._size, limit)
        self._size = size

    def release(self) -> None:
        self.resize(0)


class MemoryBudget:
    """Counts the bytes of one kind of memory. Safe to use from several threads.

    Args:
        busy: the sentence for a visitor whose request does not fit now.
        limit: the name of the budget in the metrics.
    """

    def __init__(self, busy: str, limit: str) -> None:
        self._busy, self._limit = busy, limit
        self._used = 0
        # Reentrant, because the garbage collector may release a reservation in the middle of any of the methods below.
        self._changed = threading.Condition(threading.RLock())
        self._caches: list[weakref.WeakMethod[Callable[[], None]]] = []

    def add_cache(self, empty: Callable[[], None]) -> None:
        """Has a cache, whose entries are counted here, emptied when a reservation does not fit.

        Args:
            empty: a method that removes the entries, from any thread. Its object is not kept alive.
        """
        self._caches = [cache for cache in self._caches if cache() is not None] + [weakref.WeakMethod(empty)]

    @property
    def used(self) -> int:
        return self._used

    def reserve(self, size: int, limit: int, wait_s: float = 0.0) -> Reservation:
        """Counts `size` bytes.

        Args:
            limit: how many bytes may be used in all.
            wait_s: how long to wait for others to release theirs.
        Raises:
            ServerBusy: they do not fit.
        """
        end = time.monotonic() + wait_s
        if self._used + size > limit:
            for cache in self._caches:  # without the lock: a cache has a lock of its own, and releases what it removes
                if (empty := cache()) is not None:
                    empty()
        with self._changed:
            while self._used + size > limit:
                left = end - time.monotonic()
                if left <= 0:
                    raise ServerBusy(self._busy, self._limit)
                self._changed.wait(left)
            self._used += size
        return Reservation(self, size)

    def _change(self, difference: int) -> None:
        with self._changed:
            self._used += difference
            if difference < 0:
                self._changed.notify_all()
