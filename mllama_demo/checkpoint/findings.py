"""The input and the output of the doctor's checks: a `DoctorContext` and `Finding`s."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from mllama_demo.checkpoint import neuron_sdks
from mllama_demo.checkpoint.compilation.compile import Compilation, plan_compilation
from mllama_demo.checkpoint.compilation.shared_checkpoint import look_up_checkpoint
from mllama_demo.checkpoint.machine import Machine
from mllama_demo.checkpoint.memory import core_parameters
from mllama_demo.checkpoint.neuron_sdks import Sdk
from mllama_demo.checkpoint.validate import CheckpointInfo
from mllama_demo.config.hub_cache import checkpoint_name
from mllama_demo.config.model_shape import ModelShape, published_by_name, read_shape
from mllama_demo.config.neuron import CORES
from mllama_demo.config.settings import Settings
from mllama_demo.errors import CheckpointError, ConfigError

Status = Literal["ok", "warn", "fail"]
Verdict = tuple[Status, str, str]  # status, text and remedy of a Finding
GB = 10**9


def decimal_size(count: int) -> str:
    """A number of bytes in the units of disks: 1.5 GB, 340 MB."""
    return f"{count / GB:,.1f} GB" if count >= GB else f"{count / 10**6:,.0f} MB"


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
    def on_neuron(self) -> bool:
        """Whether the configuration is for NeuronCores of this machine."""
        return self.settings.backend in ("neuron", "vllm")

    @property
    def elsewhere(self) -> str:
        """Where the model runs, in words, if that is not this machine."""
        if self.settings.backend == "openai":
            return "on the server at remote_url"
        return "in replicas on a Ray cluster" if self.settings.backend == "ray" else ""

    @property
    def on_gpu(self) -> bool:
        """Whether PyTorch takes a GPU, as far as can be told without PyTorch."""
        return self.settings.device.startswith("cuda") or (self.machine.gpu and self.settings.device == "auto")

    @property
    def has_neuron(self) -> bool:
        """Whether the machine is a Neuron instance or has Neuron devices."""
        return self.machine.neuron_devices > 0 or self.machine.instance_type in CORES

    @cached_property
    def checkpoint(self) -> CheckpointInfo | str:
        """The description of the checkpoint, or the sentence that says why it cannot be used."""
        try:
            with look_up_checkpoint(self.settings) as found:
                return replace(found, path=self.settings.model_path.resolve())
        except (CheckpointError, ConfigError) as error:
            return str(error)

    @cached_property
    def shape(self) -> ModelShape | None:
        """The sizes of the model, by its config.json, or by the size in the name of a folder that is not there yet."""
        try:
            return read_shape(self.settings.model_path / "config.json")
        except CheckpointError:
            return None if self.settings.model_path.exists() else published_by_name(checkpoint_name(self.settings.model_path))

    @property
    def weights_bytes(self) -> int | None:
        """The bytes of the weights: of the files, or in 16 bits by the sizes of the model; None where both are unknown."""
        if isinstance(self.checkpoint, CheckpointInfo):
            return self.checkpoint.bytes
        return None if self.shape is None else 2 * core_parameters(self.shape, 1)

    @cached_property
    def sdk(self) -> Sdk | None:
        """The release of the SDK that the installed packages match best."""
        return neuron_sdks.closest(self.machine.versions)

    @cached_property
    def compilation(self) -> Compilation | None:
        """The compilation that `compile` and `serve` need; None when the checkpoint cannot be used."""
        if isinstance(self.checkpoint, str):
            return None
        return plan_compilation(self.settings, self.machine.environ, keep=False)
