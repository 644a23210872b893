"""What the operator's page shows of the model, the requests and the devices, as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mllama_demo.engine.base import Backend
from mllama_demo.engine.neuron.monitor import NeuronMonitor
from mllama_demo.errors import Failure, cause_of
from mllama_demo.web.activity import Activity
from mllama_demo.web.idle import IdleTime
from mllama_demo.web.neuron_metrics import neuron_view


@dataclass(frozen=True)
class OperatorView:
    """The sources of the operator's page.

    Attributes:
        neuron: The figures of the Neuron devices; None on a machine without neuron-monitor.
        restart: Starts the process of the model again; None where the model has no process of its own.
        database_failure: Why the database does not answer; None while it does.
    """

    backend: Backend
    activity: Activity
    idle: IdleTime
    neuron: NeuronMonitor | None
    restart: Callable[[], None] | None
    database_failure: Callable[[], Failure | None]

    def figures(self) -> dict[str, Any]:
        status, info, now = self.backend.status(), self.backend.info, time.monotonic()
        requests = [
            {
                "phase": one.phase,
                "seconds": round(now - one.since, 1),
                "position": one.position,
                "image": one.image,
                "prompt_tokens": one.prompt_tokens,
                "tokens": one.tokens,
            }
            for one in self.activity.requests()
        ]
        minutes = [
            {
                "start": one.start,
                "tokens": one.tokens,
                "requests": one.requests,
                "failed": one.failed,
                "refused": one.refused,
                "ttft_s": round(one.ttft_s / one.answered, 4) if one.answered else None,
            }
            for one in self.activity.minutes()
        ]
        device = f"{info.device} at {info.address}" if info.address else info.device
        model = {"name": info.model, "device": device, "backend": info.name, "context_length": info.told_context}
        failure = self.database_failure()
        state = asdict(status) | {"detail": cause_of(status.detail)}
        return {
            "now": int(time.time()),
            "model": model,
            "status": state,
            "requests": requests,
            "minutes": minutes,
            "idle_s": round(self.idle.seconds()),
            "neuron": None if self.neuron is None else neuron_view(self.neuron),
            "database": None if failure is None else cause_of(failure),
            "may_restart": self.restart is not None,
        }
