"""Which Neuron machine this is, read from the system's files in no time: the instance type, its NeuronCores, the SDK."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mllama_demo.errors import ConfigError
from mllama_demo.neuron_settings import CORES, NO_SDK, InstanceType

PRODUCT = Path("/sys/devices/virtual/dmi/id/product_name")  # on EC2 the instance type
DEVICES = Path("/dev")


def this_instance() -> InstanceType | None:
    """The EC2 instance type; None where this is no Neuron instance or cannot be told."""
    try:
        name = PRODUCT.read_text().strip()
    except OSError:
        return None
    return next((known for known in CORES if known == name), None)


def check_instance(wanted: InstanceType, cores: int) -> None:
    """Raises ConfigError when a model for `wanted` on that many NeuronCores is not for this machine."""
    here = this_instance()
    if here is None or here == wanted:
        return
    if _family(here) != _family(wanted):
        raise ConfigError(
            f"instance_type is {wanted}, but this is a machine of type {here}, with other chips; set instance_type to {here} "
            f"and tensor_parallel_size to what its {CORES[here]} NeuronCores allow."
        )
    if cores > CORES[here]:
        raise ConfigError(
            f"tensor_parallel_size is {cores}, but this machine, of type {here}, has {CORES[here]} NeuronCores; use one of type "
            f"{wanted}, as the configuration says, or set instance_type to {here}."
        )


def check_sdk() -> None:
    """Raises ConfigError, before anything heavy is imported, where the Neuron SDK is not installed."""
    if importlib.util.find_spec("neuronx_distributed_inference") is None:
        raise ConfigError(NO_SDK)


def check_devices() -> None:
    """Raises ConfigError where there is no Neuron device to run a compiled model on."""
    if not any(DEVICES.glob("neuron[0-9]*")):
        raise ConfigError(
            f"This machine has no Neuron device ({DEVICES}/neuron0), so backend neuron cannot run here; use a trn1.32xlarge or "
            "inf2.48xlarge instance with its driver installed, or choose backend torch (--backend torch)."
        )


def _family(instance: str) -> str:
    return instance.partition(".")[0].removesuffix("n")
