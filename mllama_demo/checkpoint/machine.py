"""The machine as its files describe it: EC2 instance type, Neuron devices and driver, memory; and checks that need them.

Reads /sys, /proc, /dev and /usr/src below a root folder that a test may replace. Uses no network.
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
    """Free space on the disk of a folder that may not exist yet."""
    return shutil.disk_usage(nearest_existing(folder)).free


@dataclass(frozen=True)
class Machine:
    """A machine.

    Attributes:
        root: the folder that has sys, proc, dev and usr.
        environ: its environment variables.
        versions: the versions of installed packages, by name.
        disk_free: the function free_bytes, or a test's.
    """

    root: Path
    environ: Mapping[str, str]
    versions: Mapping[str, str]
    disk_free: Callable[[Path], int] = free_bytes

    @property
    def product(self) -> str | None:
        """The product name in the firmware; None where it is hidden. On EC2 (Nitro) it is the instance type."""
        return self._text("sys/devices/virtual/dmi/id/product_name")

    @property
    def instance_type(self) -> str | None:
        """The EC2 instance type, such as "trn1.32xlarge"; None when the machine is no EC2 instance or does not show it."""
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
        """Free memory in bytes, within the limit of a container."""
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
    """This machine. packages: the packages whose versions are looked up."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Machine(ROOT, os.environ, versions)


def version_key(version: str) -> tuple[int, ...]:
    """The sort key of a version. The part after "+" is ignored, as in "2.19.8089.0+8ab9f450"."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))


def nearest_existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def same_chips(instance: str, other: str) -> bool:
    """Whether a model compiled for one instance type runs on the other. trn1n is trn1 with a faster network."""
    first, second = (name.partition(".")[0].removesuffix("n") for name in (instance, other))
    return first == second


def check_sdk() -> None:
    """Raises ConfigError when the Neuron SDK is not installed, without importing it."""
    if importlib.util.find_spec("neuronx_distributed_inference") is None:
        raise ConfigError(NO_SDK)


def check_devices() -> None:
    """Raises ConfigError when the machine has no Neuron device."""
    if not this_machine().neuron_devices:
        raise ConfigError(
            "This machine has no Neuron device (/dev/neuron0), so backend neuron cannot run here; use a trn1.32xlarge or "
            "inf2.48xlarge instance with its driver installed, or choose backend torch (--backend torch)."
        )


def check_instance(wanted: InstanceType, cores: int) -> None:
    """Raises ConfigError when a model for the instance type `wanted` and `cores` NeuronCores cannot run on this machine.

    A machine of unknown type, or without Neuron, is not checked.
    """
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
