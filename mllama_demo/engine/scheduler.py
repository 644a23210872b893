"""Continuous batching in slots: which request waits, which request runs, and when each request ends.

The scheduler is policy over a ModelRunner. It knows no torch, no web, and starts no threads. One thread calls `step` in a loop.
Any thread may call `submit`, `cancel` and `status`, which never wait for the model.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mllama_demo.engine.answer_end import TextStream, ends_turn, push_token
from mllama_demo.engine.base import (
    MODEL_DOWN,
    REQUEST_FAILED,
    Event,
    FinishEvent,
    FinishReason,
    GenerationRequest,
    PrefillEvent,
    QueueEvent,
    TokenEvent,
)
from mllama_demo.engine.runner import ModelRunner, RunnerDown, Sampled, prefill
from mllama_demo.engine.timed_request import TimedRequest
from mllama_demo.engine.wait_estimate import WaitEstimate
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, Failure, PromptTooLong
from mllama_demo.runtime.fair_queue import FairQueue
from mllama_demo.runtime.words import counted
from mllama_demo.sampling import SamplingParams

log = logging.getLogger(__name__)

# Failures in a row after which the backend is down. Prefills and decode steps have separate counts. A successful decode step
# resets both counts. A successful prefill resets only its own count, because decode steps can fail always while prefills succeed.
FAILURES_UNTIL_DOWN = 3


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


@dataclass(eq=False, kw_only=True)
class _Job(TimedRequest):
    """A request from submission to its end, timed by the scheduler's clock."""

    text: TextStream
    slot: int = -1
    reused: int = 0
    reported_position: int | None = None
    cancelled: bool = False


class Scheduler:
    """Admits, batches and ends requests over the slots of one runner.

    Args:
        runner: Computes the tokens.
        new_text_stream: Makes the text stream of one request from its sampling parameters.
        end_of_turn_ids: Token ids that end an answer.
        max_waiting: How many requests may wait beyond the free slots.
        probe: A request that a model in order answers. It is read, and one token decoded, when FAILURES_UNTIL_DOWN requests in a
            row had numbers that are not finite: one conversation may be at fault, which is asked again and again.
        clock: Returns the time in seconds; only differences count.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        new_text_stream: Callable[[SamplingParams], TextStream],
        end_of_turn_ids: frozenset[int],
        max_waiting: int = 64,
        probe: GenerationRequest | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._new_text_stream = new_text_stream
        self._end_of_turn_ids = end_of_turn_ids
        self._max_waiting = max_waiting
        self._probe = probe
        self._clock = clock
        # Guards everything below. No thread holds the lock while the runner computes.
        self._lock = threading.Lock()
        self._waiting: FairQueue[_Job] = FairQueue()
        self._running: dict[int, _Job] = {}
        self._reading: _Job | None = None  # the running request whose prompt is being read
        self._jobs: dict[str, _Job] = {}
        self._free_slots = set(range(runner.slots))
        self._ended_slots: list[int] = []
        self._estimate = WaitEstimate()
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
            # What was cancelled ends with the next step, and takes no place from what comes now.
            waiting = sum(not job.cancelled for job in self._waiting)
            ending = sum(job.cancelled for job in self._running.values())
            beyond_slots = waiting - len(self._free_slots) - ending
            if beyond_slots >= self._max_waiting:
                raise BackendBusy.behind(beyond_slots)
            job = self._jobs[request.id] = _Job(request, self._clock(), text=text)
            self._waiting.push(job, request.queue_path)

    def _begin_text(self, text: TextStream, request: GenerationRequest) -> None:
        """Pushes the last `request.answered` tokens of the prompt, which belong to the answer. Their text is not sent again."""
        if not 0 <= request.answered < len(request.prompt_ids):
            raise BadRequest(f"The answer cannot begin with {request.answered} of {len(request.prompt_ids)} prompt tokens.")
        for token_id in request.prompt_ids[len(request.prompt_ids) - request.answered :]:
            if ends_turn(token_id, request.sampling, self._end_of_turn_ids):
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

    @property
    def down(self) -> str | None:
        """Why the model cannot answer, or None. Cheaper than `status`, which estimates the wait behind the whole queue."""
        return self._down

    def status(self) -> SchedulerStatus:
        with self._lock:
            *_, wait_s = self._waits_s()
            return SchedulerStatus(len(self._running), len(self._waiting), wait_s, self._down)

    # --- from the stepping thread ---------------------------------------------------------------------------------------

    def step(self, deliver_early: Callable[[list[tuple[str, Event]]], None] | None = None) -> list[tuple[str, Event]]:
        """Runs one round: ends cancelled and expired requests, reads a piece of one prompt, decodes the requests that were read.

        One prompt is read at a time, in the order of the queue. A long prompt therefore delays the next token of each running
        request by one piece in each round. A prompt that is whole in the cache is not read, so a round may admit several.

        Args:
            deliver_early: Receives the events that are known before a piece is read, and before the others decode. Both may last
                seconds.

        Returns:
            The remaining events, in order.
        """
        events: list[tuple[str, Event]] = []
        with self._lock:
            if self._down is not None:  # _release_slots sets _down, but ends no requests
                self._set_down(self._down, events)
            self._end_cancelled_and_expired(events)
        self._release_slots()
        for _ in range(self._runner.slots):
            with self._lock:
                admitted = self._admit(events)
                job = self._reading
                if admitted:
                    self._report_positions(events)
            if job is None:
                break
            if deliver_early is not None:
                deliver_early(events)
                events = []
            self._read(job, events, begin=admitted)
            self._release_slots()
            if deliver_early is not None and events:  # a first token need not wait for the others' next one
                deliver_early(events)
                events = []
            if self._reading is not None or job.reused < len(job.request.prompt_ids):
                break
        with self._lock:
            batch = [job for slot, job in sorted(self._running.items()) if job is not self._reading]
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

    def _admit(self, events: list[tuple[str, Event]]) -> bool:  # lock held
        """Gives the next waiting request a slot if no prompt is being read. Returns whether a request got one."""
        if self._reading is not None or not self._waiting or not self._free_slots:
            return False
        job = self._reading = self._waiting.pop()
        job.slot = self._runner.choose_slot(sorted(self._free_slots), job.request)
        self._free_slots.remove(job.slot)
        job.admitted = self._clock()
        self._running[job.slot] = job
        events.append((job.request.id, PrefillEvent(len(job.request.prompt_ids), job.waited_s(job.admitted))))
        return True

    def _read(self, job: _Job, events: list[tuple[str, Event]], *, begin: bool) -> None:
        """Reads the next piece of the job's prompt; the first one if `begin`."""
        try:
            if begin:
                job.reused = self._runner.begin(job.slot, job.request)
            sampled = self._runner.read_piece(job.slot)
        except BadRequest as error:
            with self._lock:
                self._end(job, "error", events, str(error))
            return
        except Exception as error:
            self._fail("prefill", [job], error, events)
            return
        if sampled is None:
            return
        with self._lock:
            self._reading = None
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
                if sampled.error is None:
                    self._take_token(job, sampled, events)
                else:
                    self._end_failed(job, f"The model failed on this request: {sampled.error}", events)

    def _take_token(self, job: _Job, sampled: Sampled, events: list[tuple[str, Event]]) -> None:  # lock held
        now = self._clock()
        request = job.request
        try:
            text, reason = push_token(job.text, sampled.token_id, job.tokens + 1, request.sampling, self._end_of_turn_ids)
        except Exception as error:
            cause = str(error) or type(error).__name__
            self._end_failed(job, f"The answer could not be put into text: {cause}", events, error)
            return
        events.append((request.id, TokenEvent(job.take_token(now), sampled.token_id, text, sampled.trace)))
        if reason is None and len(request.prompt_ids) + job.tokens >= self._runner.max_seq_len:
            reason = "context_full"
        if reason is not None:
            self._end(job, reason, events)

    def _end_failed(
        self, job: _Job, cause: str, events: list[tuple[str, Event]], error: Exception | None = None
    ) -> None:  # lock held
        """Ends one request with an error that says nothing of the others."""
        log.error("request %s failed: %s", job.request.id, cause, exc_info=error, extra={"request_id": job.request.request_id})
        self._end(job, "error", events, Failure(REQUEST_FAILED, cause))

    def _fail(self, kind: str, jobs: list[_Job], error: Exception, events: list[tuple[str, Event]]) -> None:
        cause = str(error) or type(error).__name__
        ids = ",".join(dict.fromkeys(job.request.request_id for job in jobs if job.request.request_id))
        # A stack tells nothing of numbers that are not finite.
        stack = None if isinstance(error, FloatingPointError) else error
        who = counted(len(jobs), "request")
        log.error("the model failed in a %s step of %s: %s", kind, who, cause, exc_info=stack, extra={"request_id": ids})
        with self._lock:
            self._failures[kind] += 1
            for job in jobs:
                self._end(job, "error", events, Failure(REQUEST_FAILED, f"The model failed on this request: {cause}"))
            is_down = isinstance(error, RunnerDown) or self._failures[kind] >= FAILURES_UNTIL_DOWN
        if is_down and isinstance(error, FloatingPointError) and self._probe is not None:
            is_down = not self._answers(self._probe, jobs[0].slot)
        if is_down:
            with self._lock:
                self._set_down(Failure(MODEL_DOWN, f"The model is down: {cause}"), events)

    def _answers(self, probe: GenerationRequest, slot: int) -> bool:
        """Whether the model answers the probe in the slot of a failed request. While a prompt is read, that is not tried yet."""
        self._release_slots()
        if self._reading is not None or self._down is not None:
            return self._down is None
        try:
            try:
                prefill(self._runner, slot, probe)
                self._runner.decode([slot])
            finally:
                self._runner.release(slot)
        except Exception as error:
            log.error("the model does not answer a request that it has answered before: %s", error)
            return False
        log.warning("the model answers a request that it has answered before, so it is not taken for broken")
        self._failures = {"prefill": 0, "decode": 0}
        return True

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
            if self._reading is job:
                self._reading = None
            self._ended_slots.append(job.slot)
            job.teach(self._estimate)
        del self._jobs[job.request.id]
        self._waiting.finish(job.request.queue_path)
        # After a stop string nothing is withheld. After an error the stream may be in an undefined state.
        text = "" if reason in ("stop_string", "error") else job.text.finish()
        stop_string = job.text.stopped if reason == "stop_string" else None
        finish = FinishEvent(
            reason, text, len(job.request.prompt_ids), job.tokens, job.timings(now), error, stop_string, reused=job.reused
        )
        events.append((job.request.id, finish))

    def _release_slots(self) -> None:
        """Releases the slots of ended requests, without the lock, because a runner may need time."""
        with self._lock:
            ended, self._ended_slots = self._ended_slots, []
        for slot in ended:
            try:
                self._runner.release(slot)
            except Exception as error:  # a runner that cannot release a slot is not used any more
                log.error("slot %d could not be released", slot, exc_info=error)
                with self._lock:
                    cause = f"The model is down: a slot could not be released ({error})"
                    self._down = self._down or Failure(MODEL_DOWN, cause)
            else:
                with self._lock:
                    self._free_slots.add(slot)

    def _report_positions(self, events: list[tuple[str, Event]]) -> None:  # lock held
        if all(job.reported_position == position for position, job in enumerate(self._waiting, 1)):
            return
        for position, (job, wait_s) in enumerate(zip(self._waiting, self._waits_s(), strict=False), 1):
            if job.reported_position != position:
                job.reported_position = position
                events.append((job.request.id, QueueEvent(position, wait_s)))

    def _waits_s(self) -> Iterator[float | None]:  # lock held
        """Seconds until each waiting request gets a slot, and then until one more would; None while unknown."""
        slots = len(self._running) + len(self._free_slots)
        if not slots:
            return itertools.repeat(None, len(self._waiting) + 1)
        now = self._clock()
        running = [job.work(now) for job in self._running.values()]
        return self._estimate.waits_s(slots, running, (job.work(now) for job in self._waiting))
