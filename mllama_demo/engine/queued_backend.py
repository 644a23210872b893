"""Requests that a backend serves in the event loop of its own thread: taken from any thread, queued and served there, read
wherever their reader is. Knows neither the web nor who computes the answer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from mllama_demo.engine.base import SHUTTING_DOWN, BackendStatus, Event, FinishEvent, GenerationRequest, State
from mllama_demo.engine.event_queue import EventQueue
from mllama_demo.engine.request_queue import Job, SlotQueue
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, DemoError


class RequestLoop:
    """slots: how many are served at the same time. serve: waits for the job's turn in `queue` and answers it, in the loop; its
    FinishEvent, or the error of a request that never began. A job's `end` cancels it."""

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
        """Runs it in the loop; False when there is none yet, or none any more."""
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
        """The queue of a backend in that state."""
        running, waiting = len(self.queue.running), len(self.queue.waiting)
        wait = self.queue.estimated_wait(waiting) if state == "ready" else None
        return BackendStatus(state, detail, running, waiting, self._slots(), self._max_waiting, wait)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See base.Backend.generate, of which everything is here but whether the backend is ready and can run such a request."""
        with self._lock:
            if request.id in self._jobs:
                raise BadRequest(f"A request with the id {request.id!r} is already under way.")
            beyond_slots = len(self._jobs) - self._slots()
            if beyond_slots >= self._max_waiting:
                raise BackendBusy.behind(beyond_slots)
            job = self._jobs[request.id] = Job(request, EventQueue())
        try:
            if not self.call(self._begin, job):
                raise BackendUnavailable(SHUTTING_DOWN)
            finished = False
            while not finished:
                event = await job.mail.get()
                if isinstance(event, DemoError):
                    raise event
                finished = isinstance(event, FinishEvent)
                yield event
        finally:
            self.cancel(request.id)

    def end_all(self, reason: str) -> None:
        """Ends every request with this error. In the loop, or where there is none any more."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.end("error", reason)

    def refuse_all(self, reason: str) -> None:
        """Tells those that came too late to begin, when the loop is over."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.tell(BackendUnavailable(reason))

    # --- in the loop ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """From now on requests are served, in the event loop that runs here."""
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Ends all requests; returns when everybody was told."""
        self.end_all(SHUTTING_DOWN)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, job: Job) -> None:
        task = asyncio.get_running_loop().create_task(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Job) -> None:
        """A request from the queue to its FinishEvent, or to its error when it never began."""
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
        job.tell(outcome)
