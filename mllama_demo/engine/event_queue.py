"""Hands events from the thread of a backend to the event loop that reads an answer. The thread never waits for the reader."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable

from mllama_demo.engine.base import Event, FinishEvent
from mllama_demo.errors import DemoError


class EventQueue:
    """The events of one reader, who iterates over the queue. Created and read in the reader's event loop.

    The iteration ends after the FinishEvent. A DemoError in the queue is raised. Other threads call
    `queue.loop.call_soon_threadsafe(queue.put, item)`, or `put_all` for several queues.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._items: deque[Event | DemoError] = deque()
        self._not_empty = asyncio.Event()
        self._finished = False

    def put(self, item: Event | DemoError) -> None:
        self._items.append(item)
        self._not_empty.set()

    def __aiter__(self) -> EventQueue:
        return self

    async def __anext__(self) -> Event:
        if self._finished:
            raise StopAsyncIteration
        while not self._items:
            self._not_empty.clear()
            await self._not_empty.wait()
        item = self._items.popleft()
        self._finished = isinstance(item, (FinishEvent, DemoError))
        if isinstance(item, DemoError):
            raise item
        return item


def put_all(items: Iterable[tuple[EventQueue, Event | DemoError]]) -> list[EventQueue]:
    """Puts each item into its queue, from any thread, with one call into each event loop.

    Returns:
        The queues whose event loop is closed, so that nobody reads them any more.
    """
    batches: dict[asyncio.AbstractEventLoop, list[tuple[EventQueue, Event | DemoError]]] = defaultdict(list)
    for queue, item in items:
        batches[queue.loop].append((queue, item))
    unread: list[EventQueue] = []
    for loop, batch in batches.items():
        try:
            loop.call_soon_threadsafe(_put_batch, batch)
        except RuntimeError:
            unread += [queue for queue, _ in batch]
    return unread


def _put_batch(batch: list[tuple[EventQueue, Event | DemoError]]) -> None:
    for queue, item in batch:
        queue.put(item)
