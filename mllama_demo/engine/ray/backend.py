"""The backend of a web process whose model runs in replicas on a Ray cluster. Knows neither torch nor the web.

Ray Serve routes a request to a replica (router.py), which streams events back. A request whose replica ends before the model has
seen it goes to another one; an answer under way ends with an error and keeps its text.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mllama_demo import __version__
from mllama_demo.engine.base import (
    MODEL_STOPPED,
    SHUTTING_DOWN,
    BackendInfo,
    BackendStatus,
    Event,
    FinishEvent,
    FinishReason,
    GenerationRequest,
    PrefillEvent,
    ReplicaStatus,
    TokenEvent,
)
from mllama_demo.engine.ray.cluster import NAMESPACE, first_line, reports_name
from mllama_demo.engine.threaded_backend import ThreadedBackend
from mllama_demo.engine.timed_request import TimedRequest
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, ConfigError, DemoError

if TYPE_CHECKING:
    from mllama_demo.engine.ray.replica import ReplicaReport, Served

log = logging.getLogger(__name__)

POLL_S = 1.0  # between two looks at the replicas
_ANSWER_S = 5.0  # how long the cluster may take to answer the look
_GRACE_S = 2.0  # after a time limit, for the replica that ends its requests itself
_ATTEMPTS = 3  # of a request that no model has seen yet
_NO_REPLICA = "no replica of the model is ready"


@dataclass(eq=False, kw_only=True)
class _Request(TimedRequest):
    """A request from its first to its last event.

    Attributes:
        loop: The event loop of its reader.
        is_late: Its time limit is over, and its replica did not end it: it has none, or does not answer.
        response: The stream of the replica.
        replica: The name of the replica that answers; empty while there is none.
    """

    loop: asyncio.AbstractEventLoop
    response: Any = None
    replica: str = ""
    is_cancelled: bool = False
    is_late: bool = False

    def saw(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, PrefillEvent):
            self.admitted = now
        elif isinstance(event, TokenEvent):
            self.take_token(now)

    def finish(self, reason: FinishReason, error: str | None = None) -> FinishEvent:
        """The end of a request that its replica did not end."""
        return FinishEvent(reason, "", len(self.request.prompt_ids), self.tokens, self.timings(time.monotonic()), error)


class RayBackend(ThreadedBackend):
    """See base.StartedBackend for the contract.

    Args:
        info: What the backend is, as far as the settings tell.
        address: Of the Ray cluster; None for the one of this machine.
        application: The name of the application of Ray Serve.
        tokenizer: The digest of the tokenizer.json that the prompts are made with.
        on_ready: Called when the first replica answers.
        on_down: Called with the reason when the cluster cannot be used.

    Attributes:
        replicas: What each replica said of itself last.
    """

    def __init__(
        self,
        info: BackendInfo,
        address: str | None,
        application: str,
        *,
        tokenizer: str,
        on_ready: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda reason: None,
    ) -> None:
        super().__init__(info, 0, "ray-backend", on_ready, on_down)
        self._address, self._application = address, application
        self._tokenizer = tokenizer
        self._told_failure = False
        self._detail = "connecting to the Ray cluster"
        self._handle: Any = None
        self._where = ""
        self._requests: dict[str, _Request] = {}
        self._wake = threading.Event()
        self.replicas: tuple[ReplicaReport, ...] = ()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        for request in list(self._requests.values()):
            self._cancel(request)

    def status(self) -> BackendStatus:
        ready = [report.status for report in self.replicas if report.status.state == "ready"]
        waits = [status.estimated_wait_s for status in ready if status.estimated_wait_s is not None]
        return BackendStatus(
            self._state,
            self._detail,
            sum(status.running for status in ready),
            sum(status.waiting for status in ready),
            sum(status.slots for status in ready),
            sum(status.max_waiting for status in ready),
            min(waits, default=None),
            replicas=tuple(
                ReplicaStatus(report.replica, report.node, one.state, one.running, one.waiting, one.slots)
                for report in self.replicas
                for one in (report.status,)
            ),
        )

    def cancel(self, request_id: str) -> None:
        request = self._requests.get(request_id)
        if request is not None:
            self._cancel(request)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if self._closing:
            raise BackendUnavailable(SHUTTING_DOWN)
        self._check_ready()
        if request.id in self._requests:
            raise BadRequest(f"A request with the id {request.id!r} is already under way.")
        loop = asyncio.get_running_loop()
        job = self._requests[request.id] = _Request(request=request, submitted=time.monotonic(), loop=loop)
        limit = None if request.time_limit_s is None else loop.call_later(request.time_limit_s + _GRACE_S, self._end_late, job)
        try:
            async for event in self._events(job):
                yield event
        finally:
            del self._requests[request.id]
            if limit is not None:
                limit.cancel()

    def _end_late(self, job: _Request) -> None:
        job.is_late = True
        if job.response is not None:
            job.response.cancel()

    async def _events(self, job: _Request) -> AsyncGenerator[Event, None]:
        """The events of one request. A replica that ends before the model has seen the request is followed by another one."""
        from ray.exceptions import RayError, TaskCancelledError
        from ray.serve.exceptions import RayServeException, RequestCancelledError

        busy: BackendBusy | None = None
        begun = False
        for _ in range(_ATTEMPTS):
            busy = None
            left = self._with_time_left(job)
            job.response = self._handle.generate.remote(left)
            finished = False
            try:
                async for item in job.response:
                    if isinstance(item, str):
                        job.replica = item
                        log.info("request %s: replica %s", job.request.id, item, extra={"request_id": job.request.request_id})
                        continue
                    if isinstance(item, DemoError):
                        finished = True
                        if not isinstance(item, BackendBusy):
                            raise item
                        busy = item  # requests that came at once may have met in one replica
                        break
                    for event in item:
                        job.saw(event)
                        finished, begun = finished or isinstance(event, FinishEvent), True
                        yield event
                if finished and busy is None:
                    return
            except (RequestCancelledError, TaskCancelledError):
                finished = True
            except (RayError, RayServeException) as error:
                finished = True
                log.error(
                    "request %s: its replica %s failed: %s",
                    job.request.id,
                    job.replica or "(none yet)",
                    first_line(error),
                    extra={"request_id": job.request.request_id},
                )
            finally:
                if not finished:
                    job.response.cancel()
            if job.is_late:
                yield job.finish("time_limit")
                return
            if job.is_cancelled:
                yield job.finish("cancelled")
                return
            if self._closing:
                yield job.finish("error", SHUTTING_DOWN)
                return
            if job.admitted is not None:
                break
        if begun:
            yield job.finish("error", MODEL_STOPPED)
            return
        raise busy or BackendUnavailable.loading(_NO_REPLICA)

    def _with_time_left(self, job: _Request) -> GenerationRequest:
        limit = job.request.time_limit_s
        if limit is None:
            return job.request
        return replace(job.request, time_limit_s=max(0.0, limit - (time.monotonic() - job.submitted)))

    def _cancel(self, job: _Request) -> None:
        job.is_cancelled = True
        if job.response is not None:
            try:
                job.loop.call_soon_threadsafe(job.response.cancel)
            except RuntimeError:  # the event loop of the reader has ended
                log.debug("request %s is read no more", job.request.id)

    # --- the thread that watches the replicas -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._connect()
        except Exception as error:
            if not isinstance(error, DemoError):
                log.exception("the Ray cluster cannot be used")
            self._state, self._detail = "down", str(error)
            self._report_down(str(error))
            return
        while not self._wake.wait(POLL_S):
            try:
                self._look()
            except Exception:  # without this thread the state would stay what it is
                log.exception("the replicas cannot be looked at")

    def _connect(self) -> None:
        """Connects to the cluster, and waits until a replica answers. Raises DemoError for what will not pass."""
        from mllama_demo.engine.ray.cluster import connect

        where = connect(self._address)
        from ray import serve  # after connect, which says how Ray is imported

        self._progress("waiting for a replica of the model")
        while True:
            if self._closing:
                return
            try:
                handle = serve.get_app_handle(self._application)
                served, info = handle.describe.remote().result(timeout_s=_ANSWER_S)
                break
            except Exception as error:  # the application is not there yet, or has no replica yet
                log.debug("no replica yet: %s", error)
                self._wake.wait(POLL_S)
        if problem := self._mismatch(served):
            raise ConfigError(problem)
        self._where = where
        self._info = replace(info, address=where)
        self._handle = handle.options(stream=True)
        self._look()
        self._loaded = True
        self._report_ready()

    def _mismatch(self, served: Served) -> str | None:
        """Why this process cannot use a replica, in a sentence; None if it can."""
        if served.version != __version__:
            return (
                f"The replicas of {self._application} run version {served.version} of the program, and this is {__version__}; "
                "deploy this version first."
            )
        if served.tokenizer != self._tokenizer:
            return f"The replicas of {self._application} have another tokenizer; set model_path to the model that they run."
        return None

    def _look(self) -> None:
        """Reads what the replicas say. Without a replica the backend is loading: Ray starts one."""
        import ray

        try:
            if not ray.is_initialized():  # get_actor would start a cluster of its own
                raise ConnectionError("the connection to the cluster is lost")
            actor = ray.get_actor(reports_name(self._application), namespace=NAMESPACE)
            reports = ray.get(actor.all.remote(), timeout=_ANSWER_S)
            self._told_failure = False
        except Exception as error:  # the actor, or the head of the cluster, is started again
            if not self._told_failure:
                log.warning("the replicas cannot be asked: %s", first_line(error))
            self._told_failure = True
            reports = []
        self.replicas = tuple(reports)
        ready = [report for report in reports if report.status.state == "ready"]
        problem = next((text for report in ready if (text := self._mismatch(report.served))), None)
        if problem and problem != self._detail:
            log.error("%s", problem)
        if problem:
            self._state, self._detail = "down", problem
        else:
            self._state, self._detail = ("ready", "") if ready else ("loading", _NO_REPLICA)
            if ready:  # while a new configuration is deployed, prompts must fit all of them
                shortest = min((report.info for report in ready), key=lambda info: info.context_length)
                self._info = replace(shortest, address=self._where)
