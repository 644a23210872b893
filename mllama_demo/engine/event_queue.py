"""Hands events from the thread of a backend to the event loop that reads an answer. The thread never waits for the reader."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class EventQueue(Generic[T]):
    """The events of one reader. Created and read in the reader's event loop.

    Other threads call `queue.loop.call_soon_threadsafe(queue.put, item)`.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._items: deque[T] = deque()
        self._not_empty = asyncio.Event()

    def put(self, item: T) -> None:
        self._items.append(item)
        self._not_empty.set()

    async def get(self) -> T:
        """Waits for an item. Returns the oldest one."""
        while not self._items:
            self._not_empty.clear()
            await self._not_empty.wait()
        return self._items.popleft()
