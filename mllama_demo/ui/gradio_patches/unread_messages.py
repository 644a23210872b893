"""Forgets the messages for pages that nobody reads, and ends their events.

Gradio: 6.31.0, 6.17.3
Defect: the queue keeps each message of an event until the stream of its page is read, of 2,000 pages, without a limit on their
  number, size or age. Events of such a page go on, so that an answer that nobody reads keeps its slot.
Report: no upstream report known
Test: tests/unit/ui/test_unread_messages.py::test_messages_that_nobody_reads_are_forgotten_and_their_event_ends
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from typing import Any

import gradio as gr

UNREAD_S = 60.0  # a page reads its messages at once
MAX_BYTES = 64 * 2**20  # of the unread messages of all pages
MAX_PAGES = 2000  # as many as Gradio keeps


def forget_unread_messages(demo: gr.Blocks) -> None:
    """Called after demo.queue()."""
    demo._queue.pending_messages_per_session = PageMessages(demo._queue)  # type: ignore[assignment]  # a dict as Gradio's is


class _Messages(asyncio.Queue[Any]):
    """The messages of one page. size: of those that are unread, in bytes."""

    def __init__(self, pages: PageMessages | None, page: str) -> None:
        super().__init__()
        self._pages, self._page = pages, page
        self._sizes: deque[int] = deque()
        self.size = 0

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._sizes.append(_size(getattr(item, "output", None)))
        self.size += self._sizes[-1]
        if self._pages is not None:
            self._pages.added(self._page, self._sizes[-1])

    def _get(self) -> Any:
        item = super()._get()
        size = self._sizes.popleft()
        self.size -= size
        if self._pages is not None:
            self._pages.read(self._page, size)
        return item

    def forget(self) -> None:
        """Removes all messages. Later ones are for nobody."""
        self._pages = None
        self._queue.clear()  # type: ignore[attr-defined]  # asyncio's, which has no method for it
        self._sizes.clear()
        self.size = 0


class PageMessages(dict[str, Any]):
    """The messages of all pages, by the session hash of the page.

    Attributes:
        size: Of the unread messages of all pages, in bytes.
    """

    def __init__(self, queue: Any) -> None:
        super().__init__()
        self._queue = queue
        self.size = 0
        self._unread: OrderedDict[str, float] = OrderedDict()  # since when nothing was read, the longest first
        self._cleaning: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __setitem__(self, page: str, _: Any) -> None:
        self._loop = asyncio.get_running_loop()
        while len(self) >= MAX_PAGES:
            self._forget(next(iter(self)))
        super().__setitem__(page, _Messages(self, page))

    def __missing__(self, page: str) -> _Messages:
        """Where an event that has not ended yet puts the messages for a page that was forgotten."""
        return _Messages(None, page)

    def __delitem__(self, page: str) -> None:
        messages = self.pop(page, None)
        self._unread.pop(page, None)
        if messages is not None:
            self.size -= messages.size
            messages.forget()

    def added(self, page: str, size: int) -> None:
        self.size += size
        now = time.monotonic()
        self._unread.setdefault(page, now)
        while self._unread:
            longest, since = next(iter(self._unread.items()))
            if now - since <= UNREAD_S and self.size <= MAX_BYTES:
                break
            self._forget(longest)

    def read(self, page: str, size: int) -> None:
        self.size -= size
        self._unread.pop(page, None)
        if self[page].size:
            self._unread[page] = time.monotonic()

    def _forget(self, page: str) -> None:
        del self[page]
        self._queue.pending_event_ids_session.pop(page, None)
        assert self._loop is not None  # the page was added in it
        self._loop.call_soon_threadsafe(self._end_events, page)  # a notice may come from a thread

    def _end_events(self, page: str) -> None:
        task = asyncio.ensure_future(self._queue.clean_events(session_hash=page))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)


def _size(value: Any) -> int:
    """About how many bytes the texts and containers of a value take."""
    size, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, (str, bytes)):
            size += 50 + len(one)
        elif isinstance(one, dict):
            size += 60 * len(one)
            waiting.extend(one.values())
        elif isinstance(one, (list, tuple)):
            size += 60
            waiting.extend(one)
        else:
            size += 30
    return size
