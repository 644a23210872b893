"""The common base of backends that queue requests for an engine or a server with slots of its own.

Requests come from any thread, wait in a fair queue, and are served in the event loop of the backend's thread. Each reader reads
in its own event loop. Knows neither the web nor how an answer is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from mllama_demo.engine.base import SHUTTING_DOWN, BackendInfo, BackendStatus, Event, FinishEvent, GenerationRequest, State
from mllama_demo.engine.event_queue import EventQueue
from mllama_demo.engine.request_queue import Job, SlotQueue
from mllama_demo.engine.threaded_backend import ThreadedBackend
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, DemoError
from mllama_demo.runtime.logs import REQUEST_ID

_JOIN_S = 10.0


class RequestLoop:
    """Serves requests in one event loop.

    Args:
        slots: Returns how many requests are served at the same time.
        max_waiting: How many requests may wait beyond the slots.
        serve: Waits for the job's turn in `queue` and answers it, in the loop. Returns its FinishEvent, or the error of a request
            that never began. `Job.end` cancels the call.
    """

    def __init__(
        self, slots: Callable[[], int], max_waiting: int, serve: Callable[[Job], Awaitable[FinishEvent | DemoError]]
    ) -> None:
        self.queue = SlotQueue(slots)
        self._slots, self._max_waiting, self._serve = slots, max_waiting, serve
        self._lock = threading.Lock()  # guards _jobs
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- from any thread ------------------------------------------------------------------------------------------------

    def call(self, function: Callable[..., Any], *arguments: Any) -> bool:
        """Runs the function in the loop. Returns False when the loop does not run yet, or has ended."""
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return False
        return self._loop is not None

    def cancel(self, request_id: str) -> None:
        """See base.Backend.cancel."""
        with self._lock:
            job = self._jobs.get(request_id)
        if job is not None:
            self.call(job.end, "cancelled")

    def status(self, state: State, detail: str) -> BackendStatus:
        """The status of a backend in that state, with the counts of the queue."""
        running, waiting = len(self.queue.running), len(self.queue.waiting)
        *_, wait = self.queue.waits_s() if state == "ready" else [None]
        return BackendStatus(state, detail, running, waiting, self._slots(), self._max_waiting, wait)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See base.Backend.generate. The caller checks whether the backend is ready and can run the request."""
        with self._lock:
            if request.id in self._jobs:
                raise BadRequest(f"A request with the id {request.id!r} is already under way.")
            beyond_slots = len(self._jobs) - self._slots()
            if beyond_slots >= self._max_waiting:
                raise BackendBusy.behind(beyond_slots)
            job = self._jobs[request.id] = Job(request, events=EventQueue())
        try:
            if not self.call(self._begin, job):
                raise BackendUnavailable(SHUTTING_DOWN)
            async for event in job.events:
                yield event
        finally:
            self.cancel(request.id)

    def end_all(self, reason: str) -> None:
        """Ends every request with this error. Called in the loop, or after the loop has ended."""
        for job in self._all_jobs():
            job.end("error", reason)

    def refuse_all(self, reason: str) -> None:
        """Sends BackendUnavailable to requests that came too late to begin. Called after the loop has ended."""
        for job in self._all_jobs():
            job.send(BackendUnavailable(reason))

    def _all_jobs(self) -> list[Job]:
        with self._lock:
            return list(self._jobs.values())

    # --- in the loop ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Serves requests in the running event loop from now on."""
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Ends all requests. Returns when every reader has its last event."""
        self.end_all(SHUTTING_DOWN)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, job: Job) -> None:
        task = asyncio.get_running_loop().create_task(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Job) -> None:
        REQUEST_ID.set(job.request.request_id)
        job.started()
        limit, loop = job.request.time_limit_s, asyncio.get_running_loop()
        timer = None if limit is None else loop.call_later(limit, job.end, "time_limit")
        try:
            outcome = await self._serve(job)
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock:
                self._jobs.pop(job.request.id, None)
            self.queue.leave(job)
        job.send(outcome)


class QueuedBackend(ThreadedBackend):
    """A backend whose thread serves the requests in an event loop. See ThreadedBackend for the arguments."""

    _join_while_loading = True  # whether close waits for the thread before the backend was ready once

    def __init__(
        self,
        info: BackendInfo,
        max_waiting: int,
        thread_name: str,
        on_ready: Callable[[], None],
        on_down: Callable[[str], None],
    ) -> None:
        super().__init__(info, max_waiting, thread_name, on_ready, on_down)
        self._requests = RequestLoop(lambda: self._info.slots, max_waiting, self._serve)

    def close(self) -> None:
        self._closing = True
        # A thread that still imports, compiles or loads ends with the process.
        if self._requests.call(self._interrupt) and (self._loaded or self._join_while_loading):
            self._join(_JOIN_S)

    def status(self) -> BackendStatus:
        return self._requests.status(self._state, self._detail)

    def cancel(self, request_id: str) -> None:
        self._requests.cancel(request_id)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        self._check_ready()
        self._check(request)
        async with contextlib.aclosing(self._requests.stream(request)) as events:
            async for event in events:
                yield event

    @abstractmethod
    def _check(self, request: GenerationRequest) -> None:
        """Raises a DemoError when the backend cannot run such a request. Called from any thread."""

    @abstractmethod
    def _interrupt(self) -> None:
        """Ends the thread soon. Called in the loop."""

    @abstractmethod
    async def _serve(self, job: Job) -> FinishEvent | DemoError:
        """Answers one request, see RequestLoop."""
