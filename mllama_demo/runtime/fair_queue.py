"""The waiting queue that every backend uses: fair between addresses, between the visitors of an address, and between the
conversations of a visitor; first in, first out within a conversation.

Knows nothing of requests, slots or threads. The caller guards it against concurrent use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Node(Generic[T]):
    """Who shares a turn: everybody, an address, a visitor or a conversation.

    Attributes:
        turn: The turn of the node's next item among the items of its siblings.
        served: The turn of the item of its children that was served last.
        unfinished: How many items were added and are not finished.
        waiting: The arrivals of the items that wait, and the items; of a conversation only.
    """

    turn: int = 0
    served: int = 0
    unfinished: int = 0
    children: dict[str, _Node[T]] = field(default_factory=dict)
    waiting: list[tuple[int, T]] = field(default_factory=list)

    @property
    def is_waiting(self) -> bool:
        return bool(self.waiting) or any(child.is_waiting for child in self.children.values())

    def ordered(self) -> list[tuple[int, T]]:
        """The waiting items in the order in which they will be served, each with its arrival.

        A child that waits has one turn after the other.
        """
        if not self.children:
            return self.waiting
        turns = [
            (child.turn + index, arrival, item)
            for child in self.children.values()
            for index, (arrival, item) in enumerate(child.ordered())
        ]
        turns.sort(key=lambda entry: entry[:2])
        return [(arrival, item) for _, arrival, item in turns]


class FairQueue(Generic[T]):
    """Items in the order of hierarchical start-time fair queueing (Goyal et al. 1996) with equal weights.

    The turn of an item is the larger of the turn served last and one past the previous turn of its address. Within an address the
    same holds for its visitors, and within a visitor for the conversations. A burst of requests thus delays the first request of
    another address, visitor or conversation by at most one turn.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._arrivals = 0
        self._paths: dict[int, tuple[str, ...]] = {}  # by arrival
        self._order: list[tuple[int, T]] | None = []

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[T]:
        """The waiting items, the next one first."""
        return iter([item for _, item in self._ordered()])

    def push(self, item: T, path: tuple[str, ...]) -> None:
        """Adds an item. The caller calls `finish` with the same path when the item needs nothing more.

        Args:
            path: whose turn the item takes: address, visitor, conversation. All paths have the same length.
        """
        node = self._root
        node.unfinished += 1
        for name in path:
            parent, node = node, node.children.setdefault(name, _Node(node.served))
            if not node.is_waiting:
                node.turn = max(node.turn, parent.served)
            node.unfinished += 1
        self._arrivals += 1
        node.waiting.append((self._arrivals, item))
        self._paths[self._arrivals] = path
        self._order = None

    def pop(self) -> T:
        """Removes and returns the next item. Raises IndexError when nothing waits."""
        order = self._ordered()
        arrival, item = order[0]
        node = self._root
        for name in self._take(arrival):
            parent, node = node, node.children[name]
            parent.served = max(parent.served, node.turn)
            node.turn += 1
        self._order = order[1:]  # the turns of the others are what they were: one more of their node, one place less in it
        return item

    def remove(self, item: T) -> None:
        """Removes an item from its place. Does nothing when the item does not wait."""
        for arrival, other in self._ordered():
            if other is item:
                self._take(arrival)
                return

    def finish(self, path: tuple[str, ...]) -> None:
        """One item of the path is done. Who has no unfinished items takes the current turn again."""
        node = self._root
        node.unfinished -= 1
        for name in path:
            parent, node = node, node.children[name]
            node.unfinished -= 1
            if not node.unfinished:
                del parent.children[name]
                return

    def _take(self, arrival: int) -> tuple[str, ...]:
        """Removes an item; returns its path."""
        path = self._paths.pop(arrival)
        node = self._root
        for name in path:
            node = node.children[name]
        node.waiting = [entry for entry in node.waiting if entry[0] != arrival]
        self._order = None
        return path

    def _ordered(self) -> list[tuple[int, T]]:
        if self._order is None:
            self._order = list(self._root.ordered())
        return self._order
