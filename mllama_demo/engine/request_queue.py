"""Who may be sent to the server now, who waits, and what each request is told meanwhile. Knows no HTTP.

Everything happens in one event loop; only the counts may be read from elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mllama_demo.engine.base import Event, FinishEvent, FinishReason, GenerationRequest, QueueEvent, Timings
from mllama_demo.engine.event_queue import EventQueue
from mllama_demo.errors import DemoError

# Weight of the newest request in the running mean of how long a request takes.
HOLD_TIME_WEIGHT = 0.3


@dataclass(eq=False)
class Job:
    """A request on its way. pieces: TokenEvents so far. usage: (prompt, completion) tokens, once the server told. told:
    whether the reader got anything. ended: why it must end early, and the error to tell."""

    request: GenerationRequest
    mail: EventQueue[Event | DemoError]
    submitted: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    pieces: int = 0
    usage: tuple[int, int] | None = None
    told: bool = False
    ended: tuple[FinishReason, str | None] | None = None
    _task: asyncio.Task[None] | None = None
    _turn: asyncio.Event = field(default_factory=asyncio.Event)
    _position: int | None = None

    @property
    def waited_s(self) -> float:
        return (self.admitted or time.monotonic()) - self.submitted

    def started(self) -> None:
        """The current task serves it from here on."""
        self._task = asyncio.current_task()

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """Ends it early. Its connection is then closed, which is how a server learns that nobody waits."""
        if self.ended is None:
            self.ended = (reason, error)
            if self._task is not None:  # else it is asked for when it starts: a task cancelled before never would
                self._task.cancel()

    def tell(self, event: Event | DemoError) -> None:
        self.told = True
        try:
            self.mail.loop.call_soon_threadsafe(self.mail.put, event)
        except RuntimeError:  # the reader's event loop is gone, and with it everybody who could read
            self.end("cancelled")

    def tell_position(self, position: int, estimated_wait_s: float | None) -> None:
        if self._position != position:
            self._position = position
            self.tell(QueueEvent(position, estimated_wait_s))

    def token(self) -> int:
        """Notes that a piece of the answer came; its index."""
        self.last_token = time.monotonic()
        self.first_token = self.first_token or self.last_token
        self.pieces += 1
        return self.pieces - 1

    def finish(self, reason: FinishReason, error: str | None, stop_string: str | None, estimated_prompt: int) -> FinishEvent:
        start, first, last = self.submitted, self.first_token, self.last_token
        timings = Timings(
            waited_s=self.waited_s,
            ttft_s=None if first is None else first - start,
            decode_s=0.0 if first is None or last is None else last - first,
            total_s=time.monotonic() - start,
        )
        prompt, completion = self.usage or (estimated_prompt, self.pieces)
        return FinishEvent(reason, "", prompt, completion, timings, error, stop_string, estimated=self.usage is None)


class SlotQueue:
    """First come, first served, by so many at a time as slots() says."""

    def __init__(self, slots: Callable[[], int]) -> None:
        self._slots = slots
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self._hold_time: float | None = None

    async def turn(self, job: Job) -> None:
        """Returns once the job has a slot."""
        self.waiting.append(job)
        self._fill()
        await job._turn.wait()

    def leave(self, job: Job) -> None:
        """Gives the slot, or the place in the queue, to the next one. Safe to call for a job that is in neither."""
        if job in self.waiting:
            self.waiting.remove(job)
        if job in self.running:
            self.running.remove(job)
            if job.admitted is not None and job.first_token is not None:
                held, mean = time.monotonic() - job.admitted, self._hold_time
                self._hold_time = held if mean is None else mean + HOLD_TIME_WEIGHT * (held - mean)
        self._fill()

    def forget(self) -> None:
        """The next waits are not estimated from what was answered so far."""
        self._hold_time = None

    def estimated_wait(self, ahead: int) -> float | None:
        """Seconds until a request with so many before it gets a slot; None while nothing is known."""
        if len(self.running) + ahead < self._slots():
            return 0.0
        return None if self._hold_time is None else self._hold_time * (ahead + 1) / self._slots()

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self._slots():
            job = self.waiting.pop(0)
            self.running.append(job)
            job.admitted = time.monotonic()
            job._turn.set()
        for index, job in enumerate(self.waiting):
            job.tell_position(index + 1, self.estimated_wait(index))
