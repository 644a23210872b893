"""The waiting queue that every backend uses: fair between conversations, first in, first out within a conversation.

Knows nothing of requests, slots or threads. The caller guards it against concurrent use.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(order=True)
class _Entry(Generic[T]):
    """Ordered by turn, then by arrival."""

    turn: int
    arrival: int
    item: T = field(compare=False)


class FairQueue(Generic[T]):
    """Items in the order of start-time fair queueing (Goyal et al. 1996) with equal weights.

    The turn of an item is the larger of the turn served last and one past the previous turn of its conversation. A burst of
    requests in one conversation therefore delays the first request of another conversation by at most one turn.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry[T]] = []
        self._served_turn = 0
        self._last_turn: dict[str, int] = {}
        self._unfinished: Counter[str] = Counter()
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        """The waiting items, the next one first."""
        return (entry.item for entry in self._entries)

    def push(self, item: T, conversation: str) -> None:
        """Adds an item. The caller calls `finish` with the same conversation when the item needs nothing more."""
        turn = max(self._served_turn, self._last_turn.get(conversation, -1) + 1)
        self._last_turn[conversation] = turn
        self._unfinished[conversation] += 1
        self._arrivals += 1
        insort(self._entries, _Entry(turn, self._arrivals, item))

    def pop(self) -> T:
        """Removes and returns the next item. Raises IndexError when nothing waits."""
        entry = self._entries.pop(0)
        self._served_turn = max(self._served_turn, entry.turn)
        return entry.item

    def remove(self, item: T) -> None:
        """Removes an item from its place. Does nothing when the item does not wait."""
        self._entries = [entry for entry in self._entries if entry.item is not item]

    def finish(self, conversation: str) -> None:
        """One item of the conversation is done. A conversation without unfinished items takes the current turn again."""
        self._unfinished[conversation] -= 1
        if self._unfinished[conversation] <= 0:
            del self._unfinished[conversation]
            self._last_turn.pop(conversation, None)
