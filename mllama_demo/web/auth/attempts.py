"""Limits failed sign-ins, so that nobody can guess passwords quickly. Counts in memory; a restart forgets the counts."""

from __future__ import annotations

import threading
import time

from cachetools import LRUCache

from mllama_demo.errors import DemoError
from mllama_demo.runtime.words import counted


class TooManyAttempts(DemoError):
    """Too many wrong passwords.

    Attributes:
        retry_s: seconds until the next attempt is allowed; the message names minutes.
    """

    status = 429
    reason = "limit"
    limit = "sign_in"

    def __init__(self, retry_s: float) -> None:
        self.retry_s = max(1, round(retry_s))
        minutes = -(-self.retry_s // 60)
        super().__init__(f"Too many wrong attempts. Please try again in {counted(minutes, 'minute')}.")


class FailedAttempts:
    """Allows each key `limit` failures in `window_s` seconds. Safe to use from several threads.

    Args:
        max_keys: how many keys are remembered, the last used ones, so that made-up keys cannot fill the memory.
    """

    def __init__(self, limit: int, window_s: float = 600, max_keys: int = 10_000) -> None:
        self._limit, self._window_s = limit, window_s
        self._failures: LRUCache[str, list[float]] = LRUCache(max_keys)
        self._lock = threading.Lock()

    def add(self, key: str) -> None:
        """Counts one failure before its outcome is known. Raises TooManyAttempts, and counts nothing, at the limit."""
        now = time.monotonic()
        with self._lock:
            recent = [moment for moment in self._failures.get(key, ()) if now - moment < self._window_s]
            if len(recent) >= self._limit:
                raise TooManyAttempts(recent[0] + self._window_s - now)
            self._failures[key] = [*recent, now]

    def remove_last(self, key: str) -> None:
        """Takes back the last failure, because that attempt succeeded.

        Earlier failures stay: the owner of one account may be guessing the password of another.
        """
        with self._lock:
            if self._failures.get(key):
                self._failures[key].pop()
