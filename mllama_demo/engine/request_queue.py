"""The requests of a backend that queues for a remote server or for vLLM: which request is served, which request waits.

Everything happens in one event loop. Other threads may read the counts. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mllama_demo.engine.base import Event, FinishEvent, FinishReason, GenerationRequest, QueueEvent, Timings
from mllama_demo.engine.event_queue import EventQueue
from mllama_demo.engine.fair_queue import FairQueue
from mllama_demo.errors import DemoError

# Weight of the newest request in the running mean of how long a request takes.
HOLD_TIME_WEIGHT = 0.3
# Tokens that arrive within this gap were sent together: a proxy may hold an answer back. Fewer bursts than MIN_BURSTS say how
# fast tokens were sent, not how fast they were generated.
BURST_GAP_S = 0.002
MIN_BURSTS = 3


@dataclass(eq=False)
class Job:
    """A request from submission to its end. Times are readings of time.monotonic().

    Attributes:
        events: The queue that the reader of the answer reads.
        bursts: How often tokens arrived, where those that arrived together count once.
        pieces: Number of TokenEvents so far.
        usage: Numbers of prompt and completion tokens, once the server reports them.
        has_sent: Whether the reader got an event.
        ended: Why the request must end early, and the error to report.
    """

    request: GenerationRequest
    events: EventQueue[Event | DemoError]
    submitted: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first_token: float | None = None
    bursts: int = 0
    last_token: float | None = None
    pieces: int = 0
    usage: tuple[int, int] | None = None
    has_sent: bool = False
    ended: tuple[FinishReason, str | None] | None = None
    _task: asyncio.Task[None] | None = None
    queued: bool = False
    _turn: asyncio.Event = field(default_factory=asyncio.Event)
    _position: int | None = None

    @property
    def waited_s(self) -> float:
        return (self.admitted or time.monotonic()) - self.submitted

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

    def token(self) -> int:
        """Counts one piece of the answer. Returns its index."""
        now = time.monotonic()
        if self.last_token is None or now - self.last_token > BURST_GAP_S:
            self.bursts += 1
        self.last_token = now
        self.first_token = self.first_token or now
        self.pieces += 1
        return self.pieces - 1

    def finish(self, reason: FinishReason, error: str | None, stop_string: str | None, estimated_prompt: int) -> FinishEvent:
        start, first, last = self.submitted, self.first_token, self.last_token
        timings = Timings(
            waited_s=self.waited_s,
            ttft_s=None if first is None else first - start,
            decode_s=0.0 if first is None or last is None or self.bursts < MIN_BURSTS else last - first,
            total_s=time.monotonic() - start,
        )
        prompt, completion = self.usage or (estimated_prompt, self.pieces)
        return FinishEvent(reason, "", prompt, completion, timings, error, stop_string, estimated=self.usage is None)


class SlotQueue:
    """Serves at most slots() requests at a time, in the order of FairQueue."""

    def __init__(self, slots: Callable[[], int]) -> None:
        self._slots = slots
        self.waiting: FairQueue[Job] = FairQueue()
        self.running: list[Job] = []
        self._hold_time: float | None = None

    async def turn(self, job: Job) -> None:
        """Returns once the job has a slot."""
        self.waiting.push(job, job.request.queue_key)
        job.queued = True
        self._fill()
        await job._turn.wait()

    def leave(self, job: Job) -> None:
        """Gives the slot, or the place in the queue, to the next job. Safe to call for a job that has neither."""
        self.waiting.remove(job)
        if job.queued:
            job.queued = False
            self.waiting.finish(job.request.queue_key)
        if job in self.running:
            self.running.remove(job)
            if job.admitted is not None and job.first_token is not None:
                held, mean = time.monotonic() - job.admitted, self._hold_time
                self._hold_time = held if mean is None else mean + HOLD_TIME_WEIGHT * (held - mean)
        self._fill()

    def forget(self) -> None:
        """Estimates the next waits from later answers alone."""
        self._hold_time = None

    def estimated_wait(self, ahead: int) -> float | None:
        """Seconds until a request with `ahead` others before it gets a slot; None while unknown."""
        if len(self.running) + ahead < self._slots():
            return 0.0
        return None if self._hold_time is None else self._hold_time * (ahead + 1) / self._slots()

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self._slots():
            job = self.waiting.pop()
            self.running.append(job)
            job.admitted = time.monotonic()
            job._turn.set()
        for index, job in enumerate(self.waiting):
            job.send_position(index + 1, self.estimated_wait(index))
