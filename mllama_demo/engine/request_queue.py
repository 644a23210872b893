"""The requests of a backend that queues for a remote server or for vLLM: which request is served, which request waits.

Everything happens in one event loop. Other threads may read the counts. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from mllama_demo.engine.base import Event, FinishEvent, FinishReason, QueueEvent, Timings
from mllama_demo.engine.event_queue import EventQueue
from mllama_demo.engine.timed_request import TimedRequest
from mllama_demo.engine.wait_estimate import WaitEstimate, Work
from mllama_demo.errors import DemoError
from mllama_demo.runtime.fair_queue import FairQueue

# Tokens that arrive within this gap were sent together: a proxy may hold an answer back. Fewer bursts than MIN_BURSTS say how
# fast tokens were sent, not how fast they were generated.
BURST_GAP_S = 0.002
MIN_BURSTS = 3


@dataclass(eq=False, kw_only=True)
class Job(TimedRequest):
    """A request from submission to its end. Times are readings of time.monotonic(); its tokens are its TokenEvents.

    Attributes:
        events: The queue that the reader of the answer reads.
        bursts: How often tokens arrived, where those that arrived together count once.
        usage: Numbers of prompt and completion tokens, once the server reports them.
        has_sent: Whether the reader got an event.
        ended: Why the request must end early, and the error to report.
    """

    events: EventQueue
    bursts: int = 0
    usage: tuple[int, int] | None = None
    has_sent: bool = False
    ended: tuple[FinishReason, str | None] | None = None
    _task: asyncio.Task[None] | None = None
    queued: bool = False
    _turn: asyncio.Event = field(default_factory=asyncio.Event)
    _position: int | None = None

    def timings(self, now: float) -> Timings:
        timings = super().timings(now)
        return timings if self.bursts >= MIN_BURSTS else replace(timings, decode_s=0.0)

    def work(self, now: float) -> Work:
        work = super().work(now)
        return work if self.bursts >= MIN_BURSTS else replace(work, token_s=None)

    def started(self) -> None:
        """The current task serves the request from now on."""
        self._task = asyncio.current_task()

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """Ends the request early. Cancelling the task closes its connection, which tells the server that nobody waits."""
        if self.ended is None:
            self.ended = (reason, error)
            if self._task is not None:  # a task that starts later reads `ended`; a task cancelled before its start never runs
                self._task.cancel()

    def send(self, event: Event | DemoError) -> None:
        self.has_sent = True
        try:
            self.events.loop.call_soon_threadsafe(self.events.put, event)
        except RuntimeError:  # the event loop of the reader has ended, so nobody reads
            self.end("cancelled")

    def send_position(self, position: int, estimated_wait_s: float | None) -> None:
        if self._position != position:
            self._position = position
            self.send(QueueEvent(position, estimated_wait_s))

    def take_token(self, now: float) -> int:
        if self.last_token is None or now - self.last_token > BURST_GAP_S:
            self.bursts += 1
        return super().take_token(now)

    def token(self) -> int:
        """Counts a token that arrives now. Returns its index."""
        return self.take_token(time.monotonic())

    def finish(self, reason: FinishReason, error: str | None, stop_string: str | None, estimated_prompt: int) -> FinishEvent:
        prompt, completion = self.usage or (estimated_prompt, self.tokens)
        timings = self.timings(time.monotonic())
        return FinishEvent(reason, "", prompt, completion, timings, error, stop_string, estimated=self.usage is None)


class SlotQueue:
    """Serves at most slots() requests at a time, in the order of FairQueue."""

    def __init__(self, slots: Callable[[], int]) -> None:
        self._slots = slots
        self.waiting: FairQueue[Job] = FairQueue()
        self.running: list[Job] = []
        self._estimate = WaitEstimate()

    async def turn(self, job: Job) -> None:
        """Returns once the job has a slot."""
        self.waiting.push(job, job.request.queue_path)
        job.queued = True
        self._fill()
        await job._turn.wait()

    def leave(self, job: Job) -> None:
        """Gives the slot, or the place in the queue, to the next job. Safe to call for a job that has neither."""
        self.waiting.remove(job)
        if job.queued:
            job.queued = False
            self.waiting.finish(job.request.queue_path)
        if job in self.running:
            self.running.remove(job)
            job.teach(self._estimate, None if job.usage is None else job.usage[1])
        self._fill()

    def forget(self) -> None:
        """Estimates the next waits from later answers alone."""
        self._estimate.forget()

    def waits_s(self) -> Iterator[float | None]:
        """Seconds until each waiting request gets a slot, and then until one more would; None while unknown."""
        now = time.monotonic()
        running = [job.work(now) for job in self.running]
        return self._estimate.waits_s(self._slots(), running, (job.work(now) for job in self.waiting))

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self._slots():
            job = self.waiting.pop()
            self.running.append(job)
            job.admitted = time.monotonic()
            job._turn.set()
        for position, (job, wait_s) in enumerate(zip(self.waiting, self.waits_s(), strict=False), 1):
            job.send_position(position, wait_s)
