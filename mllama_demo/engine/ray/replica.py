"""One replica of the model: a backend of this program in an actor of Ray Serve.

Ray starts the actor, ends it, starts it again when it fails, and routes requests to it. Knows neither torch nor the web.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve

from mllama_demo import __version__
from mllama_demo.engine.base import MODEL_DOWN, BackendInfo, BackendStatus, Event, GenerationRequest, SteppedBackend
from mllama_demo.engine.ray.cluster import NAMESPACE, first_line, reports_name
from mllama_demo.errors import DemoError, cause_of

log = logging.getLogger(__name__)
MakeBackend = Callable[[Callable[[], None], Callable[[str], None]], SteppedBackend]

REPORT_S = 0.5  # between two reports of a replica
FORGOTTEN_S = 5.0  # a replica that has not reported for so long is gone


@dataclass(frozen=True)
class Served:
    """What every replica and every web process of an application must have in common.

    Attributes:
        version: Of the program.
        tokenizer: A digest of the model's tokenizer.json. Token ids of another tokenizer mean other words.
    """

    version: str
    tokenizer: str


@dataclass(frozen=True)
class ReplicaReport:
    """What a replica says of itself.

    Attributes:
        replica: Its name in Ray.
        node: The address of its machine.
        pid: Its process there.
        info: What it runs. A new configuration changes it while a web process runs.
    """

    replica: str
    node: str
    pid: int
    served: Served
    info: BackendInfo
    status: BackendStatus


class ReplicaReports:
    """The latest report of every replica, in an actor that web processes ask once a second."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[float, ReplicaReport]] = {}

    async def put(self, report: ReplicaReport) -> None:
        self._reports[report.replica] = (asyncio.get_running_loop().time(), report)

    async def remove(self, replica: str) -> None:
        self._reports.pop(replica, None)

    async def all(self) -> list[ReplicaReport]:
        now = asyncio.get_running_loop().time()
        self._reports = {name: entry for name, entry in self._reports.items() if now - entry[0] < FORGOTTEN_S}
        return [report for _, report in sorted(self._reports.values(), key=lambda entry: entry[1].replica)]


def reports_actor(application: str) -> Any:
    """The actor with the reports of an application; it is started if there is none."""
    actor = ray.remote(num_cpus=0)(ReplicaReports)
    return actor.options(
        name=reports_name(application), namespace=NAMESPACE, lifetime="detached", get_if_exists=True, max_restarts=-1
    ).remote()


class EngineReplica:
    """The actor. Ray counts it as ready when the model is loaded and warm.

    Args:
        make: Makes the backend; unpickled in the actor.
        application: The name of the application.
        tokenizer: The digest of the model's tokenizer.json.
        step_limit_s: A step of the model that takes longer counts as a failure; None for no limit.
    """

    def __init__(self, make: MakeBackend, application: str, tokenizer: str, step_limit_s: float | None) -> None:
        self._served = Served(__version__, tokenizer)
        self._step_limit_s = step_limit_s
        ready, failed = threading.Event(), []

        def down(reason: str) -> None:
            failed.append(cause_of(reason))
            ready.set()

        self._backend = make(ready.set, down)
        self._backend.start()
        ready.wait()
        if failed:
            raise RuntimeError(failed[0])
        context = serve.get_replica_context()
        self._name = context.replica_id.unique_id
        self._application = application
        self._reporting: asyncio.Task[None] | None = None

    async def describe(self) -> tuple[Served, BackendInfo]:
        return self._served, self._backend.info

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[list[Event] | DemoError | str, None]:
        """Yields the replica's name, and then events, as many at a time as have come; or the error why the request cannot run."""
        yield self._name
        waiting: list[Event] = []
        arrived = asyncio.Event()
        error: DemoError | None = None
        done = False

        async def read() -> None:
            nonlocal error, done
            try:
                async with aclosing(self._backend.generate(request)) as events:
                    async for event in events:
                        waiting.append(event)
                        arrived.set()
            except DemoError as caught:
                error = caught
            finally:
                done = True
                arrived.set()

        reading = asyncio.create_task(read())
        try:
            while True:
                await arrived.wait()
                arrived.clear()
                batch, waiting[:] = list(waiting), []
                if batch:
                    yield batch
                if done and not waiting:
                    break
            if error is not None:
                yield error
            await reading
        finally:
            reading.cancel()
            await asyncio.wait((reading,))

    async def cancel(self, request_id: str) -> None:
        self._backend.cancel(request_id)

    async def check_health(self) -> None:
        """Called by Ray. A replica whose model is down is replaced by another one."""
        if self._reporting is None:
            self._reporting = asyncio.create_task(self._report())
        status = self._backend.status()
        if status.state == "down":
            raise RuntimeError(cause_of(status.detail) or MODEL_DOWN)
        step_s = self._backend.step_seconds()
        if step_s is not None and self._step_limit_s is not None and step_s > self._step_limit_s:
            raise RuntimeError(f"a step took longer than {self._step_limit_s:g} s (step_time_limit_s)")

    async def _report(self) -> None:
        node, failing = ray.util.get_node_ip_address(), False
        while True:
            try:
                report = ReplicaReport(self._name, node, os.getpid(), self._served, self._backend.info, self._backend.status())
                await reports_actor(self._application).put.remote(report)
                failing = False
            except Exception as error:  # the actor, or the head of the cluster, is started again
                if not failing:
                    log.warning("replica %s cannot report: %s", self._name, first_line(error))
                failing = True
            await asyncio.sleep(REPORT_S)

    def __del__(self) -> None:
        if hasattr(self, "_backend"):
            self._backend.close()
