"""Backend ray: the replicas on a cluster, as a web process sees them and as `ray-deploy` makes them."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mllama_demo.backends import make_engine, step_limit_s
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.hub_cache import checkpoint_name
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendInfo, StartedBackend
from mllama_demo.engine.ray.scale import Scale
from mllama_demo.errors import CheckpointError, ConfigError


def replicas(
    settings: Settings, on_ready: Callable[[], None], on_down: Callable[[str], None]
) -> tuple[StartedBackend, Tokenizer]:
    """Replicas on a cluster. This process needs the tokenizer of the checkpoint, and none of its weights."""
    _check_ray()
    from mllama_demo.engine.ray.backend import RayBackend
    from mllama_demo.engine.ray.cluster import check_head

    if settings.ray_address is not None:  # before the page is up, in one sentence
        check_head(settings.ray_address)
    tokenizer = Tokenizer(settings.model_path)
    info = BackendInfo("ray", checkpoint_name(settings.model_path), "a Ray cluster", settings.batch_size, settings.seq_len, 0, 0)
    backend = RayBackend(
        info,
        settings.ray_address,
        settings.ray_application,
        tokenizer=tokenizer_digest(settings.model_path),
        on_ready=on_ready,
        on_down=on_down,
    )
    return backend, tokenizer


def tokenizer_digest(folder: Path) -> str:
    """Tells whether a web process and the replicas have the same tokenizer. Raises CheckpointError where it cannot be read."""
    file = folder / "tokenizer.json"
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"The tokenizer {file} cannot be read: {error.strerror}.") from None


def _without_secrets(settings: Settings) -> Settings:
    """The settings of a replica. Everybody who reaches a Ray cluster can read what its actors were made with."""
    secret = {
        name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items() if not field.repr
    }
    return settings.model_copy(update=secret)


def _check_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("Backend ray needs the package ray, which is not installed; install it with: pip install 'ray[serve]'.")


def deploy(settings: Settings, wait_for_machines: bool) -> int:
    """The command `ray-deploy`.

    Args:
        settings: those of a replica; their backend is torch, neuron or vllm.
        wait_for_machines: deploy although the cluster does not have the resources yet.

    Returns:
        The exit code, see engine.ray.command.deploy.

    Raises:
        CheckpointError, ConfigError: as make_backend does, and for a cluster that does not answer or has too little.
    """
    _check_ray()
    if settings.backend in ("ray", "openai"):
        raise ConfigError(
            f"The replicas run the model themselves: backend must be torch, neuron or vllm, got {settings.backend}."
        )
    scale, tokenizer = scale_of(settings), tokenizer_digest(settings.model_path)
    from mllama_demo.engine.ray.command import deploy

    return deploy(settings, lambda: _application(settings, scale, tokenizer), scale, wait_for_machines=wait_for_machines)


def scale_of(settings: Settings) -> Scale:
    """How many replicas of which size the settings ask for. Raises ConfigError."""
    least, most = settings.ray_replicas, settings.ray_max_replicas
    if most is not None and most < least:
        raise ConfigError(f"ray_max_replicas must be at least ray_replicas, {least}, got {most}.")
    return Scale(
        least,
        most,
        settings.ray_replica_cpus,
        settings.ray_replica_gpus,
        neuron_cores=settings.tensor_parallel_size if settings.backend in ("neuron", "vllm") else 0,
        upscale_delay_s=settings.ray_upscale_delay_s,
        downscale_delay_s=settings.ray_downscale_delay_s,
    )


def _application(settings: Settings, scale: Scale, tokenizer: str) -> Any:
    """The application of Ray Serve whose replicas run the model of the settings. tokenizer: its digest."""
    from mllama_demo.engine.ray.deployment import application

    return application(
        partial(make_engine, _without_secrets(settings)),
        settings.ray_application,
        scale,
        tokenizer=tokenizer,
        step_limit_s=step_limit_s(settings),
        slots=settings.batch_size,
        max_waiting=settings.max_waiting,
        drain_s=settings.request_time_limit_s,
    )
