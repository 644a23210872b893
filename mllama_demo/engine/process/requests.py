"""The requests that the web process has sent to the process of the model, and what is known of each. Thread-safe."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mllama_demo.engine.base import (
    MODEL_DOWN,
    MODEL_STOPPED,
    Event,
    FinishEvent,
    FinishReason,
    GenerationRequest,
    PrefillEvent,
    TokenEvent,
)
from mllama_demo.engine.event_queue import EventQueue, put_all
from mllama_demo.engine.timed_request import TimedRequest
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, DemoError, Failure, cause_of

log = logging.getLogger(__name__)

GRACE_S = 1.0  # for the process of the model to end a request itself
_SHORTEST_LIMIT_S = 0.1


@dataclass(eq=False, kw_only=True)
class TrackedRequest(TimedRequest):
    """A request from its submission to its end. Times are readings of time.monotonic().

    Attributes:
        events: What the reader of the answer reads.
        sent: When the request was sent to the process that runs now. Later than `submitted` after a restart.
        cancelled: When the reader cancelled the request.
    """

    events: EventQueue
    sent: float = 0.0
    cancelled: float | None = None

    def note(self, event: Event) -> Event:
        """Notes what the event tells. Returns the event, with times that count from the first submission."""
        earlier = self.sent - self.submitted
        if isinstance(event, TokenEvent):
            self.take_token(time.monotonic())
        elif isinstance(event, PrefillEvent):
            self.admitted = self.admitted or time.monotonic()
            event = replace(event, waited_s=event.waited_s + earlier) if earlier else event
        elif isinstance(event, FinishEvent) and earlier:
            times = event.timings
            first = None if times.ttft_s is None else times.ttft_s + earlier
            event = replace(
                event,
                timings=replace(times, waited_s=times.waited_s + earlier, ttft_s=first, total_s=times.total_s + earlier),
            )
        return event

    def finish(self, reason: FinishReason, error: str | None = None) -> FinishEvent:
        """The last event of a request that its process did not end itself."""
        return FinishEvent(reason, "", len(self.request.prompt_ids), self.tokens, self.timings(time.monotonic()), error)

    def overdue(self, now: float, grace_s: float) -> FinishReason | None:
        """Why the request should have ended grace_s ago; None where it should not."""
        if self.cancelled is not None and now - self.cancelled >= grace_s:
            return "cancelled"
        return "time_limit" if self.expired(now, grace_s) else None

    def again(self) -> GenerationRequest:
        """The request for another process, with the time that it has left."""
        self.sent = time.monotonic()
        limit = self.request.time_limit_s
        left = None if limit is None else max(limit - (self.sent - self.submitted), _SHORTEST_LIMIT_S)
        return replace(self.request, time_limit_s=left)


class Requests:
    """The requests that have not ended, in the order of their submission."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_id: dict[str, TrackedRequest] = {}

    def add(
        self, request: GenerationRequest, slots: int, max_waiting: int, send: Callable[[GenerationRequest], None]
    ) -> TrackedRequest:
        """Notes the request and sends it. Called in the event loop that reads the answer.

        The process of the model has the same limit, and cannot refuse anything while it hangs.

        Raises:
            BadRequest: A request with this id has not ended.
            BackendBusy: The queue is full.
        """
        with self._lock:
            if request.id in self._by_id:
                raise BadRequest(f"A request with the id {request.id!r} is already under way.")
            beyond_slots = len(self._by_id) - slots
            if beyond_slots >= max_waiting:
                raise BackendBusy.behind(beyond_slots)
            tracked = self._by_id[request.id] = TrackedRequest(request, events=EventQueue())
            tracked.sent = tracked.submitted
            send(request)
        return tracked

    def remove(self, tracked: TrackedRequest) -> bool:
        """Removes a request that nobody reads any more. Returns whether it had not ended."""
        with self._lock:
            if self._by_id.get(tracked.request.id) is not tracked:
                return False
            del self._by_id[tracked.request.id]
            return True

    def cancel(self, request_id: str) -> bool:
        """Notes the cancellation. Returns whether the request has not ended."""
        with self._lock:
            tracked = self._by_id.get(request_id)
            if tracked is not None and tracked.cancelled is None:
                tracked.cancelled = time.monotonic()
            return tracked is not None

    def counts(self) -> tuple[int, int]:
        """How many requests run, and how many wait."""
        with self._lock:
            running = sum(tracked.admitted is not None for tracked in self._by_id.values())
            return running, len(self._by_id) - running

    def note_admission(self, request_id: str) -> None:
        """The model sees the request from now on."""
        with self._lock:
            if (tracked := self._by_id.get(request_id)) is not None:
                tracked.admitted = time.monotonic()

    def deliver(self, events: Iterable[tuple[str, Event | DemoError]]) -> list[str]:
        """Passes events of the process on to the readers. Events of unknown requests are ignored.

        Returns:
            The requests that were removed, because the event loop of their reader is closed.
        """
        batch: list[tuple[EventQueue, Event | DemoError]] = []
        with self._lock:
            for request_id, item in events:
                tracked = self._by_id.get(request_id)
                if tracked is None:
                    continue
                if isinstance(item, FinishEvent) and item.error == MODEL_DOWN:
                    if tracked.admitted is None:
                        continue  # the request is sent to the next process
                    item = replace(item, error=Failure(MODEL_STOPPED, cause_of(item.error)))
                    _log_end(tracked.request, cause_of(item.error))
                if isinstance(item, BackendUnavailable) and str(item) == MODEL_DOWN:
                    continue  # it reached the process too late, and is sent to the next one
                if isinstance(item, DemoError):
                    del self._by_id[request_id]
                else:
                    item = tracked.note(item)
                    if isinstance(item, FinishEvent):
                        del self._by_id[request_id]
                batch.append((tracked.events, item))
        if not (unread := put_all(batch)):
            return []
        with self._lock:
            abandoned = [request_id for request_id, tracked in self._by_id.items() if tracked.events in unread]
            for request_id in abandoned:
                del self._by_id[request_id]
        return abandoned

    def end_overdue(self, grace_s: float) -> None:
        """Ends the requests that were cancelled, or whose time is over, longer than grace_s ago."""
        now = time.monotonic()
        self._end(lambda tracked: tracked.overdue(now, grace_s), None)

    def end_running(self, error: str) -> int:
        """Ends the requests that run, with an error. Returns how many requests wait."""
        self._end(lambda tracked: None if tracked.admitted is None else "error", error)
        return self.counts()[1]

    def end_all(self, error: str) -> None:
        """Ends every request with an error."""
        self._end(lambda tracked: "error", error)

    def send_again(self, send: Callable[[GenerationRequest], None]) -> None:
        """Sends the waiting requests to another process, in their order."""
        with self._lock:
            for tracked in self._by_id.values():
                send(tracked.again())

    def _end(self, reason_of: Callable[[TrackedRequest], FinishReason | None], error: str | None) -> None:
        batch: list[tuple[EventQueue, Event | DemoError]] = []
        with self._lock:
            for request_id, tracked in list(self._by_id.items()):
                if (reason := reason_of(tracked)) is not None:
                    del self._by_id[request_id]
                    batch.append((tracked.events, tracked.finish(reason, error)))
                    if reason == "error":
                        _log_end(tracked.request, cause_of(error))
        put_all(batch)


def _log_end(request: GenerationRequest, cause: str) -> None:
    """The supervisor logs an error for all requests together. This line lets an operator find one of them."""
    log.warning("request %s ended: %s", request.id, cause, extra={"request_id": request.request_id})
