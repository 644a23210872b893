"""The backend that runs a model in this process: one thread loads the ModelRunner and steps the scheduler.

Readers consume events in their own event loops, and the model thread never waits for them. The events of a slow reader stay in
memory, at most max_tokens small objects. This module knows no torch and no web.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

from mllama_demo.chat.tokenizer import IncrementalText, Tokenizer
from mllama_demo.engine.base import (
    MODEL_DOWN,
    NOT_LOADED,
    SHUTTING_DOWN,
    BackendInfo,
    BackendStatus,
    Event,
    FinishEvent,
    GenerationRequest,
    PrefillEvent,
    State,
)
from mllama_demo.engine.event_queue import EventQueue, put_all
from mllama_demo.engine.runner import ModelRunner
from mllama_demo.engine.scheduler import Scheduler
from mllama_demo.engine.threaded_backend import ThreadedBackend
from mllama_demo.errors import BackendUnavailable, BadRequest, DemoError, Failure, cause_of
from mllama_demo.runtime.process import MODEL_THREAD

log = logging.getLogger(__name__)

# Called by a loader with the stage that it begins. Users see the stage while they wait.
Progress = Callable[[str], None]
_JOIN_S = 10.0


def _run_request(scheduler: Scheduler, request: GenerationRequest) -> None:
    """Runs one request to its end. Raises BackendUnavailable if the request fails."""
    scheduler.submit(request)
    while scheduler.has_work():
        for _, event in scheduler.step():
            if isinstance(event, FinishEvent) and event.error:
                raise BackendUnavailable(event.error)


class SlotBackend(ThreadedBackend):
    """Loads a runner in a thread and serves requests in its slots. See base.StartedBackend for the contract."""

    def __init__(
        self,
        info: BackendInfo,
        load_runner: Callable[[Progress], ModelRunner],
        tokenizer: Tokenizer,
        end_of_turn_ids: frozenset[int],
        *,
        warm_up: GenerationRequest | None = None,
        max_waiting: int = 64,
        on_ready: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """

        Args:
            load_runner: Called in the backend's thread after start(), like on_ready and on_down.
            warm_up: A request that the runner answers before the backend is ready. The backend is down if the request fails.
                It is also the probe of the scheduler.
            max_waiting: How many requests may wait beyond the slots.
            on_down: Takes the reason.
        """
        super().__init__(info, max_waiting, MODEL_THREAD, on_ready, on_down)
        self._load_runner = load_runner
        self._tokenizer = tokenizer
        self._end_of_turn_ids = end_of_turn_ids
        self._warm_up = warm_up
        self.on_admit: Callable[[str], None] = lambda request_id: None  # see base.SteppedBackend
        self._scheduler: Scheduler | None = None
        self._streams: dict[str, EventQueue] = {}
        self._wake = threading.Event()
        self._step_began: float | None = None  # a reading of time.monotonic()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        # A thread that still imports or loads cannot be stopped. It is a daemon thread and ends with the process.
        if self._loaded:
            self._join(_JOIN_S)

    def status(self) -> BackendStatus:
        scheduler = self._scheduler
        common: dict[str, Any] = {"slots": self._info.slots, "max_waiting": self._max_waiting}
        if scheduler is None:
            return BackendStatus(self._state, self._detail, 0, 0, estimated_wait_s=None, **common)
        now = scheduler.status()
        state: State = "down" if now.down else self._state
        detail = now.down or self._detail
        return BackendStatus(state, detail, now.running, now.waiting, estimated_wait_s=now.estimated_wait_s, **common)

    def step_seconds(self) -> float | None:
        """How long the current step of the model has lasted, in seconds; None between two steps."""
        began = self._step_began
        return None if began is None else time.monotonic() - began

    def cancel(self, request_id: str) -> None:
        if self._scheduler is not None:
            self._scheduler.cancel(request_id)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        self._check_ready()
        scheduler = self._scheduler
        assert scheduler is not None
        if request.id in self._streams:
            raise BadRequest(f"A request with the id {request.id!r} is already under way.")
        stream = self._streams[request.id] = EventQueue()
        try:
            scheduler.submit(request)
            self._wake.set()
            async for event in stream:
                if isinstance(event, FinishEvent) and event.error:
                    level = logging.WARNING if event.error == MODEL_DOWN else logging.ERROR  # _set_down logs an error for all
                    log.log(level, "request %s: %s", request.id, cause_of(event.error))
                yield event
        finally:
            self._streams.pop(request.id, None)
            scheduler.cancel(request.id)

    def _run(self) -> None:
        try:
            runner = self._load_runner(self._progress)
            if self._warm_up is not None and not self._closing:
                self._progress("warming up")
                # The first steps are slow. A separate scheduler keeps them out of the wait estimates.
                _run_request(self._new_scheduler(runner), self._warm_up)
        except Exception as error:
            if self._closing:  # close() may break loading, and nobody waits for the model
                return
            if not isinstance(error, DemoError):
                log.exception("loading the model failed")
            self._set_down(Failure(NOT_LOADED, f"The model could not be loaded: {cause_of(error) or type(error).__name__}"))
            return
        if self._closing:
            return
        # settings.device may be "auto"; the runner knows the device that was chosen.
        self._info = replace(self._info, device=getattr(runner, "device", self._info.device))
        scheduler = self._scheduler = self._new_scheduler(runner)
        self._loaded, self._state, self._detail = True, "ready", ""
        self._report_ready()
        reason = SHUTTING_DOWN
        try:
            self._serve(scheduler)
        except Exception as error:
            log.exception("the backend failed")
            reason = Failure(MODEL_DOWN, f"The model is down: {str(error) or type(error).__name__}")
        reason = scheduler.down or reason
        self._deliver(scheduler.shutdown(reason))
        if not self._closing:
            self._set_down(reason)

    def _set_down(self, reason: str) -> None:
        self._state, self._detail = "down", reason
        self._report_down(reason)

    def _new_scheduler(self, runner: ModelRunner) -> Scheduler:
        return Scheduler(
            runner,
            new_text_stream=lambda sampling: IncrementalText(self._tokenizer, sampling.stop),
            end_of_turn_ids=self._end_of_turn_ids,
            max_waiting=self._max_waiting,
            probe=self._warm_up,
        )

    def _serve(self, scheduler: Scheduler) -> None:
        """Steps the scheduler until the backend is closed or the model is down."""
        while not self._closing and scheduler.down is None:
            if scheduler.has_work():
                self._step_began = time.monotonic()
                self._deliver(scheduler.step(self._deliver_early))
                self._step_began = None
            else:
                self._wake.wait()
                self._wake.clear()

    def _deliver_early(self, events: list[tuple[str, Event]]) -> None:
        for request_id, event in events:
            if isinstance(event, PrefillEvent):
                self.on_admit(request_id)
        self._deliver(events)

    def _deliver(self, events: list[tuple[str, Event]]) -> None:
        batch: list[tuple[EventQueue, Event | DemoError]] = []
        for request_id, event in events:
            stream = self._streams.get(request_id)
            if stream is not None:
                batch.append((stream, event))
        for stream in put_all(batch):
            self._abandon(stream)

    def _abandon(self, stream: EventQueue) -> None:
        for request_id, other in list(self._streams.items()):
            if other is stream:
                self._streams.pop(request_id, None)
                self.cancel(request_id)
