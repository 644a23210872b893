"""Estimates how long a request waits for a slot, from the lengths and the speed of the answers before it. Pure.

`python -m benchmarks waits` compares the estimates with the actual waits.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

REMEMBERED = 32  # answers
_NEWEST = 0.3  # weight of the newest answer in the running means of the times


@dataclass(frozen=True)
class Work:
    """A request that holds a slot, or waits for one.

    Attributes:
        limit: max_tokens.
        is_whole: The answer goes on to its limit (ignore_eos).
        held_s: Seconds since it got its slot; 0 while it waits.
        written: Tokens so far.
        token_s: Its own seconds for a token; None where they are not known yet.
    """

    limit: int
    is_whole: bool = False
    held_s: float = 0.0
    written: int = 0
    token_s: float | None = None


class WaitEstimate:
    """Learns from requests that have ended. Nothing is known before the first of them."""

    def __init__(self) -> None:
        self._lengths: deque[int] = deque(maxlen=REMEMBERED)
        self._reading_s = 0.0
        self._token_s = 0.0

    def learn(self, tokens: int, reading_s: float, decode_s: float) -> None:
        """Takes in an answer.

        Args:
            tokens: Its length, from 1.
            reading_s: Seconds from its slot to its first token.
            decode_s: Seconds from its first to its last token.
        """
        token_s = decode_s / (tokens - 1) if tokens > 1 else self._token_s
        weight = _NEWEST if self._lengths else 1.0
        self._reading_s += weight * (reading_s - self._reading_s)
        self._token_s += weight * (token_s - self._token_s)
        self._lengths.append(tokens)

    def forget(self) -> None:
        """Learns anew, as after the model was replaced."""
        self._lengths.clear()
        self._reading_s = self._token_s = 0.0

    def waits_s(self, slots: int, running: Sequence[Work], waiting: Iterable[Work]) -> Iterator[float | None]:
        """Seconds until each waiting request gets a slot, and then until one more would; None while unknown.

        Args:
            slots: How many there are.
            running: The requests that hold them.
            waiting: The others, the next one first.
        """
        waiting = iter(waiting)
        free_at = [0.0] * (slots - len(running)) + [self.left_s(work) for work in running]
        heapq.heapify(free_at)
        for taken in itertools.count(len(running)):
            yield 0.0 if taken < slots else free_at[0] if self._lengths else None
            work = next(waiting, None)
            if work is None:
                return
            heapq.heapreplace(free_at, free_at[0] + self.left_s(work))

    def left_s(self, work: Work) -> float:
        """Seconds until a request ends."""
        token_s = work.token_s or self._token_s
        reading = max(0.0, self._reading_s - work.held_s) if not work.written else 0.0
        return reading + self._tokens_left(work) * token_s

    def _tokens_left(self, work: Work) -> float:
        """The mean of what is left of the earlier answers that were longer than this one is by now.

        An answer that is longer than all of them is expected to become as long again.
        """
        most = max(0, work.limit - work.written)
        if work.is_whole:
            return most
        left = [min(length - work.written, most) for length in self._lengths if length > work.written]
        return sum(left) / len(left) if left else min(work.written, most)
