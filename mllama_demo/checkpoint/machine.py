"""What can be known of a machine from its own files, in no time: which EC2 instance it is, its Neuron devices and driver, its
memory; and the refusals of one that cannot run a configuration for Neuron.

Reads /sys, /proc, /dev and /usr/src under a root that a test may put elsewhere, and never the network.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mllama_demo.config.neuron import CORES, NO_SDK, InstanceType
from mllama_demo.errors import ConfigError

ROOT = Path("/")


def free_bytes(folder: Path) -> int:
    """Of the disk where the folder is, or would be."""
    return shutil.disk_usage(existing(folder)).free


@dataclass(frozen=True)
class Machine:
    """root: where /sys and its like are looked for. versions: of the installed packages, by name. disk_free: as free_bytes."""

    root: Path
    environ: Mapping[str, str]
    versions: Mapping[str, str]
    disk_free: Callable[[Path], int] = free_bytes

    @property
    def product(self) -> str | None:
        """What the firmware calls the machine; None where it is hidden. On EC2 (Nitro) the name is the instance type."""
        return self._text("sys/devices/virtual/dmi/id/product_name")

    @property
    def instance_type(self) -> str | None:
        """Of an EC2 instance, such as "trn1.32xlarge"; None when this is none or cannot be known."""
        product = self.product or ""
        on_ec2 = (self._text("sys/devices/virtual/dmi/id/sys_vendor") or "").startswith("Amazon")
        return product if on_ec2 and re.fullmatch(r"[a-z][a-z0-9-]*\.[a-z0-9-]+", product) else None

    @property
    def neuron_devices(self) -> int:
        """Each is a chip of two NeuronCores on the instances of this demo."""
        return sum(1 for file in (self.root / "dev").glob("neuron*") if file.name[len("neuron") :].isdigit())

    @property
    def gpu(self) -> bool:
        return (self.root / "dev/nvidia0").exists()

    @property
    def driver(self) -> str | None:
        """The version of the loaded Neuron driver."""
        return self._text("sys/module/neuron/version")

    @property
    def driver_on_disk(self) -> str | None:
        """The version of the driver package (aws-neuronx-dkms), loaded or not."""
        found = [folder.name.removeprefix("aws-neuronx-") for folder in (self.root / "usr/src").glob("aws-neuronx-*")]
        return max(found, key=version_key, default=None)

    @property
    def memory(self) -> int | None:
        """Bytes that a new program can have, within the limit of a container."""
        sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", self._text("proc/meminfo") or "", re.MULTILINE))
        available = sizes.get("MemAvailable") or sizes.get("MemTotal")
        limit = self._text("sys/fs/cgroup/memory.max") or ""
        known = [int(available) * 1024] if available else []
        return min([*known, *([int(limit)] if limit.isdigit() else [])], default=None)

    def _text(self, path: str) -> str | None:
        try:
            return (self.root / path).read_text(errors="replace").strip() or None
        except OSError:
            return None


def this_machine(packages: Sequence[str] = ()) -> Machine:
    """packages: whose versions are wanted."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Machine(ROOT, os.environ, versions)


def version_key(version: str) -> tuple[int, ...]:
    """To compare versions by; only the release counts ("2.19.8089.0+8ab9f450" as 2.19.8089.0)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def same_chips(instance: str, other: str) -> bool:
    """Whether what is compiled for one instance type runs on the other. trn1n is trn1 with more network."""
    first, second = (name.partition(".")[0].removesuffix("n") for name in (instance, other))
    return first == second


def check_sdk() -> None:
    """Raises ConfigError, before anything heavy is imported, where the Neuron SDK is not installed."""
    if importlib.util.find_spec("neuronx_distributed_inference") is None:
        raise ConfigError(NO_SDK)


def check_devices() -> None:
    """Raises ConfigError where there is no Neuron device to run a compiled model on."""
    if not this_machine().neuron_devices:
        raise ConfigError(
            "This machine has no Neuron device (/dev/neuron0), so backend neuron cannot run here; use a trn1.32xlarge or "
            "inf2.48xlarge instance with its driver installed, or choose backend torch (--backend torch)."
        )


def check_instance(wanted: InstanceType, cores: int) -> None:
    """Raises ConfigError when a model for `wanted` on that many NeuronCores is not for this machine. One whose type cannot be
    told, or has no Neuron, is not judged."""
    name = this_machine().instance_type
    here: InstanceType | None = next((known for known in CORES if known == name), None)
    if here is None or here == wanted:
        return
    if not same_chips(here, wanted):
        raise ConfigError(
            f"instance_type is {wanted}, but this is a machine of type {here}, with other chips; set instance_type to {here} "
            f"and tensor_parallel_size to what its {CORES[here]} NeuronCores allow."
        )
    if cores > CORES[here]:
        raise ConfigError(
            f"tensor_parallel_size is {cores}, but this machine, of type {here}, has {CORES[here]} NeuronCores; use one of type "
            f"{wanted}, as the configuration says, or set instance_type to {here}."
        )
