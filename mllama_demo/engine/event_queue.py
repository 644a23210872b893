"""From a backend's thread to the event loop that reads an answer. The thread never waits: it hands over and goes on."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class EventQueue(Generic[T]):
    """One reader's mail. Made, filled and read in the reader's event loop; others call loop.call_soon_threadsafe(put, item)."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._mail: deque[T] = deque()
        self._filled = asyncio.Event()

    def put(self, item: T) -> None:
        self._mail.append(item)
        self._filled.set()

    async def get(self) -> T:
        """The oldest item; waits for it."""
        while not self._mail:
            self._filled.clear()
            await self._filled.wait()
        return self._mail.popleft()
