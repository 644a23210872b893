"""The command `ray-deploy`: starts replicas of the model on a Ray cluster, or replaces them one by one."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from mllama_demo import __version__
from mllama_demo.config.settings import Settings
from mllama_demo.engine.ray.scale import Scale, check_room

NOT_DEPLOYED = 1


def deploy(
    settings: Settings,
    application: Callable[[], Any],
    scale: Scale,
    *,
    wait_for_machines: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Deploys the application and waits until its replicas are ready.

    Args:
        application: makes the application of Ray Serve; called when the cluster is there.
        scale: how many replicas, with which resources.
        wait_for_machines: deploy although the cluster does not have these resources yet.
        say: prints a line.

    Returns:
        The exit code: 0 when all replicas are ready, 1 when they do not become ready.

    Raises:
        ConfigError: nobody answers at the address, or the cluster does not have these resources.
    """
    from mllama_demo.engine.ray.cluster import connect

    where = connect(settings.ray_address)
    import ray
    from ray import serve

    if not wait_for_machines:
        check_room(scale, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    name = settings.ray_application
    say(f"deploying {name} (version {__version__}) on the cluster of {where}")
    serve.start(proxy_location="Disabled")  # the web processes stream through handles
    target = serve.RunTarget(application(), name=name, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)
    return _wait(serve, name, say)


def _wait(serve: Any, name: str, say: Callable[[str], None]) -> int:
    told = ""
    while True:
        status = serve.status().applications.get(name)
        if status is None:
            say(f"{name} was deleted")
            return NOT_DEPLOYED
        (deployment,) = status.deployments.values()
        states = ", ".join(f"{count} {state}" for state, count in deployment.replica_states.items())
        message = sentence_of(deployment.message)
        line = f"{status.status.value}: {states or 'no replica'}" + (f" ({message})" if message else "")
        if line != told:
            say(line)
            told = line
        if status.status == "RUNNING":
            return 0
        if status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            return NOT_DEPLOYED
        time.sleep(1)


def sentence_of(message: str) -> str:
    """What a message of Ray Serve says. Of one with a traceback the text of the exception, which is its last line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if "Traceback (most recent call last)" not in message:
        return " ".join(lines)
    return re.sub(r"^[\w.]+: ", "", lines[-1])
