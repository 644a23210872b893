"""The last hour in sums of a minute, and the requests of this moment: what the operator's page shows. Kept in memory alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from mllama_demo.engine.base import Event, FinishEvent, PrefillEvent, QueueEvent, TokenEvent

MINUTES = 60


@dataclass
class Minute:
    """start: seconds since the epoch. requests: ended in it; failed: of those, with an error. ttft_s: sum of `answered`."""

    start: int
    tokens: int = 0
    requests: int = 0
    failed: int = 0
    refused: int = 0
    ttft_s: float = 0.0
    answered: int = 0


@dataclass(frozen=True)
class Request:
    """One that waits or runs. since: time.monotonic() when it came. position: in the queue."""

    id: str
    since: float
    image: bool
    phase: Literal["waiting", "reading", "writing"] = "waiting"
    position: int | None = None
    prompt_tokens: int | None = None
    tokens: int = 0


class Activity:
    """Told of every request by MeasuredBackend. Safe to use from several threads. now: seconds since the epoch."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._ring: dict[int, Minute] = {}
        self._requests: dict[str, Request] = {}
        self._lock = threading.Lock()

    def asked(self, id: str, image: bool) -> None:
        with self._lock:
            self._requests[id] = Request(id, time.monotonic(), image)

    def happened(self, id: str, event: Event) -> None:
        with self._lock:
            request = self._requests.get(id)
            if request is None:
                return
            if isinstance(event, QueueEvent):
                request = replace(request, phase="waiting", position=event.position)
            elif isinstance(event, PrefillEvent):
                request = replace(request, phase="reading", position=None, prompt_tokens=event.prompt_tokens)
            elif isinstance(event, TokenEvent):
                count = len(event.logprobs) or 1
                self._minute().tokens += count
                request = replace(request, phase="writing", position=None, tokens=request.tokens + count)
            elif isinstance(event, FinishEvent):
                self._ended(event)
            self._requests[id] = request

    def refused(self) -> None:
        with self._lock:
            self._minute().refused += 1

    def left(self, id: str) -> None:
        """The request is over, however it ended."""
        with self._lock:
            self._requests.pop(id, None)

    def requests(self) -> list[Request]:
        """Those that run, the oldest first, then those that wait, in the order of the queue."""
        with self._lock:
            found = list(self._requests.values())
        return sorted(found, key=lambda one: (one.phase == "waiting", one.position or 0, one.since))

    def minutes(self) -> list[Minute]:
        """The last 60, the oldest first, the one under way last."""
        with self._lock:
            this = self._start()
            return [replace(self._ring.get(start) or Minute(start)) for start in range(this - 60 * (MINUTES - 1), this + 1, 60)]

    def _ended(self, event: FinishEvent) -> None:
        minute = self._minute()
        minute.requests += 1
        minute.failed += event.reason == "error"
        if event.timings.ttft_s is not None:
            minute.ttft_s += event.timings.ttft_s
            minute.answered += 1

    def _start(self) -> int:
        return int(self._now()) // 60 * 60

    def _minute(self) -> Minute:
        start = self._start()
        if start not in self._ring:
            self._ring[start] = Minute(start)
            for old in [key for key in self._ring if key <= start - 60 * MINUTES]:
                del self._ring[old]
        return self._ring[start]
