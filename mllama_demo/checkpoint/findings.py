"""The input and the output of the doctor's checks: a `DoctorContext` and `Finding`s."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from mllama_demo.checkpoint import neuron_sdks
from mllama_demo.checkpoint.compilation.compile import Compilation, plan_compilation
from mllama_demo.checkpoint.machine import Machine
from mllama_demo.checkpoint.neuron_sdks import Sdk
from mllama_demo.checkpoint.validate import CheckpointInfo, check_checkpoint
from mllama_demo.config.model_shape import ModelShape, read_shape
from mllama_demo.config.neuron import CORES
from mllama_demo.config.settings import Settings
from mllama_demo.errors import CheckpointError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        check: the name of the check.
        text: what was found.
        remedy: what to do; empty when nothing is to be done or when the text says it.
    """

    check: str
    status: Status
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class DoctorContext:
    """A machine and the configuration to check it for."""

    machine: Machine
    settings: Settings

    @property
    def neuron(self) -> bool:
        """Whether the configuration is for NeuronCores."""
        return self.settings.backend == "neuron"

    @property
    def has_neuron(self) -> bool:
        """Whether the machine is a Neuron instance or has Neuron devices."""
        return self.machine.neuron_devices > 0 or self.machine.instance_type in CORES

    @cached_property
    def checkpoint(self) -> CheckpointInfo | str:
        """The description of the checkpoint, or the sentence that says why it cannot be used."""
        try:
            return check_checkpoint(self.settings.model_path)
        except CheckpointError as error:
            return str(error)

    @cached_property
    def shape(self) -> ModelShape | None:
        """The sizes of the model, which need its config.json only."""
        try:
            return read_shape(self.settings.model_path / "config.json")
        except CheckpointError:
            return None

    @cached_property
    def sdk(self) -> Sdk | None:
        """The release of the SDK that the installed packages match best."""
        return neuron_sdks.closest(self.machine.versions)

    @cached_property
    def compilation(self) -> Compilation | None:
        """The compilation that `compile` and `serve` need; None when the checkpoint cannot be used."""
        if isinstance(self.checkpoint, str):
            return None
        return plan_compilation(self.settings, self.machine.environ)
