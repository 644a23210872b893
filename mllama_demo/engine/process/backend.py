"""The backend whose model runs in a process of its own, which is started again when it fails.

The web process keeps every request until it has ended. When the process of the model ends, running requests end with an error
and keep their text; waiting requests are sent to the next process. This module knows neither torch nor the web.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from mllama_demo.engine.base import (
    MODEL_DOWN,
    MODEL_STOPPED,
    NOT_LOADED,
    SHUTTING_DOWN,
    BackendInfo,
    BackendStatus,
    Event,
    GenerationRequest,
    State,
)
from mllama_demo.engine.process.child import MakeBackend
from mllama_demo.engine.process.child_handle import ChildProcess, Message
from mllama_demo.engine.process.protocol import HEARTBEAT_S, Admitted, Batch, Cancel, Down, Heartbeat, Ready
from mllama_demo.engine.process.requests import GRACE_S, Requests
from mllama_demo.engine.threaded_backend import ThreadedBackend
from mllama_demo.errors import Failure, cause_of

log = logging.getLogger(__name__)

# Seconds before the first, second … start after a failure.
RESTART_DELAYS_S = (0.5, 2.0, 8.0, 30.0, 60.0)
# A process that was ready for so long has recovered: the next failure is the first of a row.
STABLE_S = 60.0
# How long a process may take to end in order. One that compiles removes its working folder first.
_CLOSE_S = 5.0
_CLOSE_LOADING_S = 15.0
# The supervisor looks at every heartbeat. One that has not looked for so long did not run.
_PAUSED_S = 20 * HEARTBEAT_S
_RESTARTING = "starting again after a failure"


@dataclass(frozen=True)
class _End:
    """The end of one process.

    Attributes:
        cause: What ended it, for the operator, without a full stop.
        reason: What the process itself said, if it did.
        ready_s: For how many seconds the model was ready.
        wanted: The operator asked for another process.
        hung: The process still runs, in a step that does not end.
    """

    cause: str
    reason: str | None = None
    ready_s: float = 0.0
    wanted: bool = False
    hung: bool = False


class _Watch:
    """What one process has said of itself. Loading has no limit, because a compilation takes hours.

    Attributes:
        ready_at: When the model was loaded, as a time.monotonic().
        reason: Why the process ends by itself.
    """

    def __init__(self, step_limit_s: float | None) -> None:
        self._limit_s = step_limit_s
        self._heard = self._looked = time.monotonic()
        self._step_s = 0.0
        self.ready_at: float | None = None
        self.reason: str | None = None

    def heard(self, message: Message) -> None:
        self._heard = time.monotonic()
        self._step_s = (message.step_s or 0.0) if isinstance(message, Heartbeat) else 0.0
        if isinstance(message, Ready):
            self.ready_at = self._heard
        elif isinstance(message, Down):
            self.reason = message.reason

    @property
    def ready_s(self) -> float:
        return 0.0 if self.ready_at is None else time.monotonic() - self.ready_at

    def hangs(self) -> bool:
        """Whether the step has lasted too long. A process that says nothing is still in the step that it was in."""
        now = time.monotonic()
        since_last_look, self._looked = now - self._looked, now
        if self.ready_at is None or self._limit_s is None:
            return False
        if since_last_look > _PAUSED_S:  # this process was paused, perhaps with the other one: what that says comes next
            self._heard, self._step_s = now, 0.0
            return False
        return self._step_s + (time.monotonic() - self._heard) > self._limit_s


class ProcessBackend(ThreadedBackend):
    """A backend in a process of its own. See base.StartedBackend for the contract.

    Args:
        info: What the backend is, as far as it is known before the model is loaded.
        make: Makes the backend in its process.
        max_waiting: How many requests may wait beyond the slots.
        step_limit_s: A step of a loaded model that takes longer counts as a failure; None for no limit.
        max_restarts: How many failures in a row are followed by another start.
        explain: Returns what an error means that the last output of a failed process names, and what to do; None for none.
            Without `explain` the output is not looked at.
        on_ready: Called when the model is loaded for the first time.
        on_down: Called with the reason when the model is not started again.
    """

    def __init__(
        self,
        info: BackendInfo,
        make: MakeBackend,
        *,
        max_waiting: int = 64,
        step_limit_s: float | None = None,
        max_restarts: int = 5,
        explain: Callable[[str], str | None] | None = None,
        on_ready: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda reason: None,
    ) -> None:
        super().__init__(info, max_waiting, "engine-supervisor", on_ready, on_down)
        self._make = make
        self._step_limit_s = step_limit_s
        self._max_restarts = max_restarts
        self._explain = explain
        self._estimated_wait_s: float | None = None
        self._restarts = 0
        self._last_failure = ""
        self._requests = Requests()
        self._child: ChildProcess | None = None
        self._lock = threading.Lock()  # a request is sent to the process only while the state is "ready"
        self._restart_wanted = False
        self._wake = threading.Event()

    # --- from any thread ------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The id of the process of the model; None while there is none."""
        child = self._child
        return None if child is None else child.pid

    def restart(self) -> None:
        """Starts the process again, whatever its state is, and counts failures from 0."""
        self._restart_wanted = True
        self._wake.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._join()
        self._requests.end_all(SHUTTING_DOWN)

    def status(self) -> BackendStatus:
        running, waiting = self._requests.counts()
        state, slots = self._state, self._info.slots
        wait = self._estimated_wait_s if state == "ready" else None
        free = not waiting and running < slots
        if state == "ready" and (free or not wait):  # the process reports the wait after a delay
            wait = 0.0 if free else None
        return BackendStatus(
            state, self._detail, running, waiting, slots, self._max_waiting, wait, self._restarts, self._last_failure
        )

    def cancel(self, request_id: str) -> None:
        if self._requests.cancel(request_id):
            with self._lock:
                if self._child is not None and self._state == "ready":
                    self._child.send(Cancel(request_id))

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        with self._lock:
            self._check_ready()
            assert self._child is not None
            tracked = self._requests.add(request, self._info.slots, self._max_waiting, self._child.submit)
        try:
            async for event in tracked.events:
                yield event
        finally:
            if self._requests.remove(tracked):
                with self._lock:
                    if self._child is not None:
                        self._child.send(Cancel(request.id))

    # --- the supervisor's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._closing:
            self._restart_wanted = False
            end = self._run_process()
            if self._closing:
                break
            # The model that never loaded because of something that it could name will not load the next time.
            hopeless = end.reason is not None and not self._loaded
            if end.wanted:
                failures = 0
            elif (failures := 1 if end.ready_s >= STABLE_S else failures + 1) > self._max_restarts or hopeless:
                self._give_up(end)
                failures = 0
            else:
                delay = RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S)) - 1]
                self._last_failure = end.cause
                log.error("%s; starting it again in %g s (%d of %d)", end.cause, delay, failures, self._max_restarts)
                self._pause_until(time.monotonic() + delay)
            self._restarts += 1
        self._requests.end_all(SHUTTING_DOWN)
        self._state, self._detail = "down", SHUTTING_DOWN

    def _run_process(self) -> _End:
        """Runs one process from its start to its end."""
        self._set_state("loading", _RESTARTING if self._restarts else "starting")
        try:
            child = ChildProcess(self._make, keep_output=self._explain is not None)
        except OSError as error:
            return _End(f"The process of the model could not be started: {error}")
        with self._lock:
            self._child = child
        watch = _Watch(self._step_limit_s)
        child.listen(lambda message: self._handle(message, child, watch))
        end: _End | None = None
        try:
            while end is None and not self._closing:
                ended = child.has_ended(HEARTBEAT_S)
                end = self._end_of(child, watch, ended)
                self._requests.end_overdue(GRACE_S if self._state == "ready" else 0.0)
        finally:
            with self._lock:
                self._child = None
                if self._state == "ready":
                    self._state, self._detail = "loading", _RESTARTING
            if end is None:  # close() was called
                self._requests.end_all(SHUTTING_DOWN)
                child.close(_CLOSE_S if watch.ready_at else _CLOSE_LOADING_S)
            else:
                child.kill(dump=end.hung)
                self._requests.end_running(Failure(MODEL_STOPPED, end.cause))
        return end or _End(SHUTTING_DOWN)

    def _end_of(self, child: ChildProcess, watch: _Watch, ended: bool) -> _End | None:
        """Why the process has ended, or must be ended now; None when it goes on."""
        if watch.reason is not None:
            return _End(f"The process of the model has ended: {cause_of(watch.reason)}", watch.reason, watch.ready_s)
        if ended:
            return _End(self._explained(f"The process of the model {child.how_it_ended()}", child), ready_s=watch.ready_s)
        if self._restart_wanted:
            log.info("the model is started again, as the operator asked")
            return _End("The operator has started the model again", wanted=True)
        if watch.hangs():
            cause = f"a step took longer than {self._step_limit_s:g} s (step_time_limit_s)"
            cause = self._explained(f"The process of the model was ended, because {cause}", child)
            return _End(cause, None, watch.ready_s, hung=True)
        return None

    def _explained(self, cause: str, child: ChildProcess) -> str:
        advice = None if self._explain is None else self._explain(child.last_output())
        return cause if advice is None else f"{cause}. Its output names an error: {advice.rstrip('.')}"

    def _give_up(self, end: _End) -> None:
        """Ends what waits, and waits until the operator starts the model again."""
        self._last_failure = end.cause
        sentence = MODEL_DOWN if self._loaded else NOT_LOADED
        in_vain = f"; it was started {self._max_restarts} times again" if self._max_restarts and self._loaded else ""
        reason = end.reason or Failure(sentence, f"{sentence.removesuffix('.')}: {end.cause}{in_vain}.")
        self._set_state("down", reason)
        self._requests.end_all(reason)
        self._report_down(reason)
        self._pause_until(None)

    def _pause_until(self, end: float | None) -> None:
        """Waits until a time.monotonic(), or for ever. Returns early when the backend is closed, or started again by hand."""
        while not self._closing and not self._restart_wanted and (end is None or time.monotonic() < end):
            self._wake.wait(HEARTBEAT_S)
            self._wake.clear()
            self._requests.end_overdue(0.0)

    def _set_state(self, state: State, detail: str) -> None:
        with self._lock:
            self._state, self._detail = state, detail

    # --- from the thread that reads what the process says ---------------------------------------------------------------

    def _handle(self, message: Message, child: ChildProcess, watch: _Watch) -> None:
        watch.heard(message)
        if isinstance(message, Batch):
            self._estimated_wait_s = message.estimated_wait_s
            for request_id in self._requests.deliver(message.events):
                child.send(Cancel(request_id))
        elif isinstance(message, Heartbeat):
            self._estimated_wait_s = message.estimated_wait_s
            if message.state == "loading":
                self._detail = f"{_RESTARTING}: {message.detail}" if self._loaded else message.detail
        elif isinstance(message, Admitted):
            self._requests.note_admission(message.request_id)
        elif isinstance(message, Ready):
            self._set_ready(message.info, child)

    def _set_ready(self, info: BackendInfo, child: ChildProcess) -> None:
        with self._lock:
            if self._child is not child:  # it was ended meanwhile
                return
            first, self._loaded = not self._loaded, True
            self._info = info
            self._state, self._detail = "ready", ""
            self._requests.send_again(child.submit)
        if not first:
            log.info("the model is ready again")
            return
        self._report_ready()
