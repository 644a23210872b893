"""Continuous batching in slots: which request waits, which request runs, and when each request ends.

The scheduler is policy over a ModelRunner. It knows no torch, no web, and starts no threads. One thread calls `step` in a loop.
Any thread may call `submit`, `cancel` and `status`, which never wait for the model.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mllama_demo.engine.base import (
    MODEL_DOWN,
    REQUEST_FAILED,
    Event,
    FinishEvent,
    FinishReason,
    GenerationRequest,
    PrefillEvent,
    QueueEvent,
    Timings,
    TokenEvent,
)
from mllama_demo.engine.fair_queue import FairQueue
from mllama_demo.engine.runner import ModelRunner, RunnerDown, Sampled
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, Failure, PromptTooLong
from mllama_demo.sampling import SamplingParams

# Failures in a row after which the backend is down. Prefills and decode steps have separate counts. A successful decode step
# resets both counts. A successful prefill resets only its own count, because decode steps can fail always while prefills succeed.
FAILURES_UNTIL_DOWN = 3
# Weight of the newest request in the running mean of how long a request holds its slot.
HOLD_TIME_WEIGHT = 0.3


class TextStream(Protocol):
    """Turns the token ids of one request into text that is final: whole characters, and no part of a stop string.

    Attributes:
        stopped: The stop string that ended the text, or None.
    """

    stopped: str | None

    def push(self, token_id: int) -> str:
        """Adds a token. Returns the text that is final with this token."""
        ...

    def finish(self) -> str:
        """Returns the text that was withheld until now, when no token follows."""
        ...


@dataclass(frozen=True)
class SchedulerStatus:
    """The load of the scheduler, and whether the model can answer.

    Attributes:
        running, waiting: Numbers of requests.
        estimated_wait_s: Seconds that a request sent now would wait; None while unknown.
        down: Why the model cannot answer, or None.
    """

    running: int
    waiting: int
    estimated_wait_s: float | None
    down: str | None


@dataclass(eq=False)
class _Job:
    """A request from submission to its end. Times are readings of the scheduler's clock, in seconds."""

    request: GenerationRequest
    submitted: float
    text: TextStream
    slot: int = -1
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    tokens: int = 0
    reported_position: int | None = None
    cancelled: bool = False

    def expired(self, now: float) -> bool:
        limit = self.request.time_limit_s
        return limit is not None and now - self.submitted >= limit


class Scheduler:
    """Admits, batches and ends requests over the slots of one runner.

    Args:
        runner: Computes the tokens.
        new_text_stream: Makes the text stream of one request from its sampling parameters.
        end_of_turn_ids: Token ids that end an answer.
        max_waiting: How many requests may wait beyond the free slots.
        clock: Returns the time in seconds; only differences count.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        new_text_stream: Callable[[SamplingParams], TextStream],
        end_of_turn_ids: frozenset[int],
        max_waiting: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._new_text_stream = new_text_stream
        self._end_of_turn_ids = end_of_turn_ids
        self._max_waiting = max_waiting
        self._clock = clock
        # Guards everything below. No thread holds the lock while the runner computes.
        self._lock = threading.Lock()
        self._waiting: FairQueue[_Job] = FairQueue()
        self._running: dict[int, _Job] = {}
        self._jobs: dict[str, _Job] = {}
        self._free_slots = list(range(runner.slots))
        self._ended_slots: list[int] = []
        self._hold_time: float | None = None
        self._failures = {"prefill": 0, "decode": 0}
        self._down: str | None = None

    # --- from any thread ------------------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> None:
        """Queues the request. Raises BackendBusy, PromptTooLong, BadRequest or BackendUnavailable, without side effects."""
        length, limit = len(request.prompt_ids), self._runner.max_seq_len
        if length == 0:
            raise BadRequest("The prompt is empty.")
        if length >= limit:
            raise PromptTooLong(f"The prompt has {length} tokens; this model has room for {limit - 1} and an answer.")
        text = self._new_text_stream(request.sampling)
        self._begin_text(text, request)
        with self._lock:
            if self._down is not None:
                raise BackendUnavailable(self._down)
            if request.id in self._jobs:
                raise BadRequest(f"A request with the id {request.id!r} is already under way.")
            beyond_slots = len(self._waiting) - len(self._free_slots)
            if beyond_slots >= self._max_waiting:
                raise BackendBusy.behind(beyond_slots)
            job = self._jobs[request.id] = _Job(request, self._clock(), text)
            self._waiting.push(job, request.queue_key)

    def _begin_text(self, text: TextStream, request: GenerationRequest) -> None:
        """Pushes the last `request.answered` tokens of the prompt, which belong to the answer. Their text is not sent again."""
        if not 0 <= request.answered < len(request.prompt_ids):
            raise BadRequest(f"The answer cannot begin with {request.answered} of {len(request.prompt_ids)} prompt tokens.")
        for token_id in request.prompt_ids[len(request.prompt_ids) - request.answered :]:
            if token_id in self._end_of_turn_ids and not request.sampling.ignore_eos:
                raise BadRequest("The answer to go on with ends its turn already; nothing comes after that.")
            text.push(token_id)
            if text.stopped is not None:
                raise BadRequest(f"The answer to go on with holds the stop string {text.stopped!r} already.")

    def cancel(self, request_id: str) -> None:
        """Ends the request at the start of the next step. Unknown and finished ids are ignored."""
        with self._lock:
            job = self._jobs.get(request_id)
            if job is not None:
                job.cancelled = True

    def has_work(self) -> bool:
        with self._lock:
            return bool(self._jobs)

    def status(self) -> SchedulerStatus:
        with self._lock:
            wait = self._estimate_wait(len(self._waiting))
            return SchedulerStatus(len(self._running), len(self._waiting), wait, self._down)

    # --- from the stepping thread ---------------------------------------------------------------------------------------

    def step(self, deliver_early: Callable[[list[tuple[str, Event]]], None] | None = None) -> list[tuple[str, Event]]:
        """Runs one round: ends cancelled and expired requests, prefills one waiting request, decodes all running requests.

        Args:
            deliver_early: Receives the events that are known before a prefill, which may last seconds.

        Returns:
            The remaining events, in order.
        """
        events: list[tuple[str, Event]] = []
        with self._lock:
            if self._down is not None:  # _release_slots sets _down, but ends no requests
                self._set_down(self._down, events)
            self._end_cancelled_and_expired(events)
        self._release_slots()
        with self._lock:
            job = self._admit(events)
            if job is not None:
                self._report_positions(events)
        if job is not None:
            if deliver_early is not None:
                deliver_early(events)
                events = []
            self._prefill(job, events)
            self._release_slots()
        with self._lock:
            batch = [self._running[slot] for slot in sorted(self._running)]
        if batch:
            self._decode(batch, events)
            self._release_slots()
        with self._lock:
            self._report_positions(events)
        return events

    def shutdown(self, reason: str) -> list[tuple[str, Event]]:
        """Ends every request with `reason` as the error. Later calls of submit raise BackendUnavailable with the reason."""
        events: list[tuple[str, Event]] = []
        with self._lock:
            self._set_down(reason, events)
        self._release_slots()
        return events

    # --- the parts of a step (those with the lock held say so) ----------------------------------------------------------

    def _end_cancelled_and_expired(self, events: list[tuple[str, Event]]) -> None:  # lock held
        now = self._clock()
        for job in list(self._jobs.values()):
            if job.cancelled:
                self._end(job, "cancelled", events)
            elif job.expired(now):
                self._end(job, "time_limit", events)

    def _admit(self, events: list[tuple[str, Event]]) -> _Job | None:  # lock held
        if not self._waiting or not self._free_slots:
            return None
        job = self._waiting.pop()
        job.slot = heapq.heappop(self._free_slots)
        job.admitted = self._clock()
        self._running[job.slot] = job
        events.append((job.request.id, PrefillEvent(len(job.request.prompt_ids), job.admitted - job.submitted)))
        return job

    def _prefill(self, job: _Job, events: list[tuple[str, Event]]) -> None:
        try:
            sampled = self._runner.prefill(job.slot, job.request)
        except BadRequest as error:
            with self._lock:
                self._end(job, "error", events, str(error))
            return
        except Exception as error:
            self._fail("prefill", [job], error, events)
            return
        with self._lock:
            self._failures["prefill"] = 0
            self._take_token(job, sampled, events)

    def _decode(self, batch: list[_Job], events: list[tuple[str, Event]]) -> None:
        try:
            tokens = self._runner.decode([job.slot for job in batch])
            if len(tokens) != len(batch):
                raise RuntimeError(f"the runner returned {len(tokens)} tokens for {len(batch)} slots")
        except Exception as error:
            self._fail("decode", batch, error, events)
            return
        with self._lock:
            self._failures = {"prefill": 0, "decode": 0}
            for job, sampled in zip(batch, tokens, strict=True):
                self._take_token(job, sampled, events)

    def _take_token(self, job: _Job, sampled: Sampled, events: list[tuple[str, Event]]) -> None:  # lock held
        job.last_token = self._clock()
        if job.first_token is None:
            job.first_token = job.last_token
        ended_turn = sampled.token_id in self._end_of_turn_ids and not job.request.sampling.ignore_eos
        try:
            text = "" if ended_turn else job.text.push(sampled.token_id)
        except Exception as error:
            self._end(
                job,
                "error",
                events,
                Failure(REQUEST_FAILED, f"The answer could not be put into text: {str(error) or type(error).__name__}"),
            )
            return
        events.append((job.request.id, TokenEvent(job.tokens, sampled.token_id, text, sampled.trace)))
        job.tokens += 1
        if ended_turn:
            self._end(job, "end_of_turn", events)
        elif job.text.stopped is not None:
            self._end(job, "stop_string", events)
        elif job.tokens >= job.request.sampling.max_tokens:
            self._end(job, "max_tokens", events)
        elif len(job.request.prompt_ids) + job.tokens >= self._runner.max_seq_len:
            self._end(job, "context_full", events)

    def _fail(self, kind: str, jobs: list[_Job], error: Exception, events: list[tuple[str, Event]]) -> None:
        cause = str(error) or type(error).__name__
        with self._lock:
            self._failures[kind] += 1
            for job in jobs:
                self._end(job, "error", events, Failure(REQUEST_FAILED, f"The model failed on this request: {cause}"))
            if isinstance(error, RunnerDown) or self._failures[kind] >= FAILURES_UNTIL_DOWN:
                self._set_down(Failure(MODEL_DOWN, f"The model is down: {cause}"), events)

    def _set_down(self, reason: str, events: list[tuple[str, Event]]) -> None:  # lock held
        self._down = reason
        for job in list(self._jobs.values()):
            self._end(job, "error", events, reason)

    def _end(
        self, job: _Job, reason: FinishReason, events: list[tuple[str, Event]], error: str | None = None
    ) -> None:  # lock held
        now = self._clock()
        if job.admitted is None:
            self._waiting.remove(job)
        else:
            del self._running[job.slot]
            self._ended_slots.append(job.slot)
            if job.tokens:
                held = now - job.admitted
                previous = self._hold_time
                self._hold_time = held if previous is None else previous + HOLD_TIME_WEIGHT * (held - previous)
        del self._jobs[job.request.id]
        self._waiting.finish(job.request.queue_key)
        # After a stop string nothing is withheld. After an error the stream may be in an undefined state.
        text = "" if reason in ("stop_string", "error") else job.text.finish()
        timings = Timings(
            waited_s=(job.admitted if job.admitted is not None else now) - job.submitted,
            ttft_s=None if job.first_token is None else job.first_token - job.submitted,
            decode_s=0.0 if job.first_token is None or job.last_token is None else job.last_token - job.first_token,
            total_s=now - job.submitted,
        )
        stop_string = job.text.stopped if reason == "stop_string" else None
        finish = FinishEvent(reason, text, len(job.request.prompt_ids), job.tokens, timings, error, stop_string)
        events.append((job.request.id, finish))

    def _release_slots(self) -> None:
        """Releases the slots of ended requests, without the lock, because a runner may need time."""
        with self._lock:
            ended, self._ended_slots = self._ended_slots, []
        for slot in ended:
            try:
                self._runner.release(slot)
            except Exception as error:  # a runner that cannot release a slot is not used any more
                with self._lock:
                    cause = f"The model is down: a slot could not be released ({error})"
                    self._down = self._down or Failure(MODEL_DOWN, cause)
            else:
                with self._lock:
                    heapq.heappush(self._free_slots, slot)

    def _report_positions(self, events: list[tuple[str, Event]]) -> None:  # lock held
        for index, job in enumerate(self._waiting):
            if job.reported_position != index + 1:
                job.reported_position = index + 1
                events.append((job.request.id, QueueEvent(index + 1, self._estimate_wait(index))))

    def _estimate_wait(self, ahead: int) -> float | None:  # lock held
        """Seconds until a request with `ahead` others before it gets a slot. Assumes that each holds its slot for the mean time.

        A request that has held its slot for longer than the mean is expected to hold it half as long again. The limit is the time
        that the rest of its max_tokens needs.
        """
        if ahead < len(self._free_slots):
            return 0.0
        if self._hold_time is None:
            return None
        now = self._clock()
        free_at = [0.0] * len(self._free_slots)
        for job in self._running.values():
            assert job.admitted is not None
            held = now - job.admitted
            left = max(self._hold_time - held, held / 2)
            if job.tokens > 1 and job.first_token is not None and job.last_token is not None:
                seconds_per_token = (job.last_token - job.first_token) / (job.tokens - 1)
                left = min(left, (job.request.sampling.max_tokens - job.tokens) * seconds_per_token)
            free_at.append(left)
        if not free_at:
            return None
        heapq.heapify(free_at)
        for _ in range(ahead):
            heapq.heapreplace(free_at, free_at[0] + self._hold_time)
        return free_at[0]
