"""How many replicas of the model there are, what each of them has, and whether a cluster has that. Does not import Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mllama_demo.errors import ConfigError
from mllama_demo.runtime.words import counted

_UNITS = {"CPU": "CPUs", "GPU": "GPUs", "neuron_cores": "NeuronCores"}  # the names of Ray, and those of a sentence


@dataclass(frozen=True)
class Scale:
    """How many replicas, and what each of them has.

    Attributes:
        replicas: The number of replicas, or the smallest number if there is a `most`.
        most: The largest number, with autoscaling; None for a fixed number.
        cpus, gpus, neuron_cores: Of one replica, as Ray counts them.
        upscale_delay_s: How long questions must wait before a replica is started.
        downscale_delay_s: How long there must be too little to do before a replica ends. A Neuron device loads for minutes, so
            that it is not given back between two questions.
    """

    replicas: int = 1
    most: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    neuron_cores: int = 0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0

    @property
    def resources(self) -> dict[str, float]:
        """What a replica needs, by Ray's names."""
        needs = {"CPU": self.cpus, "GPU": self.gpus, "neuron_cores": float(self.neuron_cores)}
        return {name: amount for name, amount in needs.items() if amount}


def check_room(scale: Scale, machines: Sequence[Mapping[str, float]]) -> None:
    """Raises ConfigError if the machines of a cluster do not have what the replicas need, whoever uses it now.

    Args:
        machines: The resources of each machine, by Ray's names.
    """
    needs = scale.resources
    room = sum(_fits(needs, machine) for machine in machines) if needs else scale.replicas
    if room >= scale.replicas:
        return
    wanted = " and ".join(f"{amount:g} {_UNITS[name]}" for name, amount in needs.items())
    has = ", ".join(f"{sum(one.get(name, 0.0) for one in machines):g} {_UNITS[name]}" for name in needs)
    raise ConfigError(
        f"The cluster has room for {room} of {scale.replicas} replicas: each needs {wanted} of one machine, and "
        f"{counted(len(machines), 'machine')} together have {has}; add machines or ask for less, or pass "
        "--wait-for-machines if machines start on demand."
    )


def _fits(needs: Mapping[str, float], machine: Mapping[str, float]) -> int:
    """How many replicas fit one machine."""
    return min(math.floor(machine.get(name, 0.0) / amount + 1e-9) for name, amount in needs.items())
