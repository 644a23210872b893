"""The application of Ray Serve: replicas of the model with their resources, how many there are, and how they end."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from mllama_demo.engine.ray.replica import EngineReplica, MakeBackend
from mllama_demo.engine.ray.scale import Scale

DEPLOYMENT = "engine"
_ROOM = 1000
_LOOK_BACK_S = 30.0  # the questions that wait are averaged over so long, or over the delay where that is shorter
_REPORTS = 3  # of a router within that time


def application(
    make: MakeBackend,
    name: str,
    scale: Scale,
    *,
    tokenizer: str,
    slots: int,
    max_waiting: int,
    step_limit_s: float | None,
    drain_s: float,
) -> serve.Application:
    """An application for `serve.run`.

    Args:
        make: makes the backend of a replica.
        name: of the application.
        scale: how many replicas, with which resources.
        tokenizer: digest of the model's tokenizer.json.
        slots, max_waiting: of a replica.
        step_limit_s: a step of the model that takes longer counts as a failure; None for no limit.
        drain_s: how long a replica that is to end may go on with its answers.
    """
    resources = {"neuron_cores": scale.neuron_cores} if scale.neuron_cores else {}
    options: dict[str, Any] = {"num_replicas": scale.replicas}
    if scale.most is not None:
        look_back_s = min(_LOOK_BACK_S, max(1.0, scale.upscale_delay_s))
        options = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=scale.replicas,
                initial_replicas=scale.replicas,
                max_replicas=scale.most,
                target_ongoing_requests=slots,
                upscale_delay_s=scale.upscale_delay_s,
                downscale_delay_s=scale.downscale_delay_s,
                look_back_period_s=look_back_s,
                metrics_interval_s=look_back_s / _REPORTS,
            )
        }
    deployment = serve.deployment(
        name=DEPLOYMENT,
        # The scheduler of a replica refuses what is too much, with a sentence; Ray would let it wait without one.
        max_ongoing_requests=slots + max_waiting + _ROOM,
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": scale.gpus, "resources": resources},
        request_router_config=RequestRouterConfig(
            request_router_class="mllama_demo.engine.ray.router.ConversationRouter",  # type: ignore[arg-type]  # Ray takes a path
            request_router_kwargs={"slots": slots},
        ),
        graceful_shutdown_timeout_s=drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=2.0,
        health_check_timeout_s=30.0,
        **options,
    )(EngineReplica)
    return deployment.bind(make, name, tokenizer, step_limit_s)
