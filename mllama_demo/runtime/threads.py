"""Threads for one kind of slow work, so that the work cannot take the threads that all requests share.

Clients take turns: the work of one client delays that of another by one turn of a thread at most, however much of it there is.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from mllama_demo.errors import DemoError
from mllama_demo.runtime.fair_queue import FairQueue

P = ParamSpec("P")
T = TypeVar("T")

# The client for whom the current task works: the address and the visitor. Empty where it works for nobody in particular.
CLIENT: ContextVar[tuple[str, str]] = ContextVar("client", default=("", ""))


class _Work:
    """A function that waits for a thread or runs in one.

    Attributes:
        path: the client whose turn it takes.
        ended: whether its place is free again.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run, self.future = run, Future[Any]()
        self.path = CLIENT.get()
        self.ended = False


class WorkThreads:
    """Runs functions in a few threads of their own. Refuses work when too much is waiting.

    Args:
        name: of the threads, in logs.
        threads: how many there are.
        max_waiting: how many functions may wait for a thread. Those of one address may take half of the places.
        busy: makes the error for a visitor whose work is refused.
        wait_s: how long a function may wait for a thread; None for no limit. May be set anew.
    """

    def __init__(
        self, name: str, threads: int, max_waiting: int, busy: Callable[[], DemoError], wait_s: float | None = None
    ) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._max, self._busy, self.wait_s = threads + max_waiting, busy, wait_s
        self._max_of_an_address = threads + max_waiting // 2
        self._accepted: Counter[str] = Counter()  # by address
        self._waiting: FairQueue[_Work] = FairQueue()
        self._lock = threading.Lock()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of work(*args, **kwargs). A cancelled call leaves the queue, or its thread to the end of the work.

        Raises:
            DemoError: too much is waiting, or the work has waited too long.
        """
        item = _Work(functools.partial(contextvars.copy_context().run, functools.partial(work, *args, **kwargs)))
        address = item.path[0]
        with self._lock:
            if self._accepted.total() >= self._max or (address and self._accepted[address] >= self._max_of_an_address):
                raise self._busy()
            self._accepted[address] += 1
            self._waiting.push(item, item.path)
        self._executor.submit(self._run_next)
        result = asyncio.wrap_future(item.future)
        try:
            if self.wait_s is not None:
                await asyncio.wait({result}, timeout=self.wait_s)
                if self._leave(item):
                    raise self._busy()
            return await result
        finally:
            self._leave(item)
            result.cancel()

    def wrap(self, work: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
        """The function as a coroutine function that runs in these threads, with the same signature for FastAPI."""

        @functools.wraps(work)
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self.run(work, *args, **kwargs)

        return run

    def _leave(self, item: _Work) -> bool:
        """Removes work from the queue. Returns whether it was still there."""
        with self._lock:
            if not item.future.cancel():
                return False
            self._waiting.remove(item)
            self._end(item)
            return True

    def _end(self, item: _Work) -> None:
        """Frees the place of work. The caller and the thread may both do so; the second call does nothing."""
        if item.ended:
            return
        item.ended = True
        self._waiting.finish(item.path)
        self._accepted[item.path[0]] -= 1
        self._accepted = +self._accepted

    def _run_next(self) -> None:
        """Runs the work whose turn it is. The executor runs this once for each piece of work, and for those that left."""
        with self._lock:
            if not len(self._waiting):
                return
            item = self._waiting.pop()
            if not item.future.set_running_or_notify_cancel():  # the event loop cancelled it; _leave runs a moment later
                self._end(item)
                return
        result, error = None, None
        try:
            result = item.run()
        except BaseException as raised:
            error = raised
        with self._lock:  # first: whoever gets the result may have more work at once
            self._end(item)
        if error is None:
            item.future.set_result(result)
        else:
            item.future.set_exception(error)
