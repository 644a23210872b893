"""The activity that the operator's page shows: sums of each minute of the last hour, and the current requests. In memory only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from mllama_demo.engine.base import Event, FinishEvent, PrefillEvent, QueueEvent, TokenEvent

MINUTES = 60


@dataclass
class MinuteTotals:
    """The sums of one minute.

    Attributes:
        start: seconds since the epoch.
        tokens: generated tokens.
        requests: requests that ended, with the failed ones.
        failed: requests that ended with an error.
        refused: requests that the backend did not take.
        ttft_s: the sum of the times to first token of `answered` requests, in seconds.
        answered: requests that ended and had a first token.
    """

    start: int
    tokens: int = 0
    requests: int = 0
    failed: int = 0
    refused: int = 0
    ttft_s: float = 0.0
    answered: int = 0


@dataclass(frozen=True)
class CurrentRequest:
    """A request that waits or runs. since: time.monotonic() at its start. position: its place in the queue, from 1."""

    id: str
    since: float
    image: bool
    phase: Literal["waiting", "reading", "writing"] = "waiting"
    position: int | None = None
    prompt_tokens: int | None = None
    tokens: int = 0


class Activity:
    """Counts requests. MeasuredBackend calls it for each one. Thread-safe. now: returns seconds since the epoch.

    Attributes:
        last_end: time.monotonic() when the last request ended, or of the start.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._minutes: dict[int, MinuteTotals] = {}  # by start, the oldest first
        self._requests: dict[str, CurrentRequest] = {}
        self._lock = threading.Lock()
        self.last_end = time.monotonic()

    def started(self, id: str, image: bool) -> None:
        with self._lock:
            self._requests[id] = CurrentRequest(id, time.monotonic(), image)

    def on_event(self, id: str, event: Event, tokens: int = 0) -> None:
        """tokens: how many of the answer the event brings, see TokenCount."""
        with self._lock:
            request = self._requests.get(id)
            if request is None:
                return
            if isinstance(event, QueueEvent):
                request = replace(request, phase="waiting", position=event.position)
            elif isinstance(event, PrefillEvent):
                request = replace(request, phase="reading", position=None, prompt_tokens=event.prompt_tokens)
            elif isinstance(event, TokenEvent):
                request = replace(request, phase="writing", position=None)
            elif isinstance(event, FinishEvent):
                self._count(event)
            if tokens:
                self._minute().tokens += tokens
            self._requests[id] = replace(request, tokens=request.tokens + tokens)

    def refused(self) -> None:
        with self._lock:
            self._minute().refused += 1

    def ended(self, id: str) -> None:
        """Removes a request, whether it has finished, failed or was cancelled."""
        with self._lock:
            self._requests.pop(id, None)
            self.last_end = time.monotonic()

    def requests(self) -> list[CurrentRequest]:
        """Returns the running requests, the oldest first, then the waiting requests in the order of the queue."""
        with self._lock:
            requests = list(self._requests.values())
        return sorted(requests, key=lambda request: (request.phase == "waiting", request.position or 0, request.since))

    def minutes(self) -> list[MinuteTotals]:
        """Returns the last 60 minutes; the last element is the current minute."""
        with self._lock:
            now = self._start()
            starts = range(now - 60 * (MINUTES - 1), now + 1, 60)
            return [replace(self._minutes.get(start) or MinuteTotals(start)) for start in starts]

    def _count(self, event: FinishEvent) -> None:
        minute = self._minute()
        minute.requests += 1
        minute.failed += event.reason == "error"
        if event.timings.ttft_s is not None:
            minute.ttft_s += event.timings.ttft_s
            minute.answered += 1

    def _start(self) -> int:
        return int(self._now()) // 60 * 60

    def _minute(self) -> MinuteTotals:
        start = self._start()
        if start not in self._minutes:
            self._minutes[start] = MinuteTotals(start)
            for old in [key for key in self._minutes if key <= start - 60 * MINUTES]:
                del self._minutes[old]
        return self._minutes[start]
