"""The machine as its files describe it: EC2 instance type, Neuron devices and driver, memory; and checks that need them.

Reads /sys, /proc, /dev and /usr/src below a root folder that a test may replace. Uses no network.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mllama_demo.config.neuron import CORES, NO_SDK, InstanceType, family_of
from mllama_demo.errors import ConfigError

ROOT = Path("/")
# The files of control groups, version 2 and 1, below sys/fs/cgroup: the limit, the memory in use, and the lines of memory.stat
# with the file cache, which is in use but is given up when a program needs memory.
_CGROUP_FILES = (
    ("memory.max", "memory.current", r"(?:in)?active_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", r"total_(?:in)?active_file"),
)
_NO_LIMIT = 2**60  # version 1 writes "no limit" as a number near 2**63


_RATE_BLOCK, _RATE_PLACES = 16 * 2**20, 16  # what measure_disk reads
_RATE_LIMIT_S = 3.0


def measure_disk(file: Path) -> float | None:
    """Bytes a second at which the disk reads a large file, without the page cache; None where that cannot be measured.

    Reads up to 256 MiB from all over the file, for about _RATE_LIMIT_S seconds.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    size, read = file.stat().st_size, 0
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        for place in range(_RATE_PLACES):
            read += len(os.pread(descriptor, _RATE_BLOCK, max(0, size - _RATE_BLOCK) * place // _RATE_PLACES))
            if time.perf_counter() - started > _RATE_LIMIT_S:
                break
        return read / max(time.perf_counter() - started, 1e-9)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder that may not exist yet."""
    return shutil.disk_usage(nearest_existing(folder)).free


@dataclass(frozen=True)
class DeviceUser:
    """A process that has Neuron devices open.

    Attributes:
        name: of its program.
        devices: paths such as /dev/neuron0.
    """

    id: int
    name: str
    devices: list[str]


@dataclass(frozen=True)
class Machine:
    """A machine.

    Attributes:
        root: the folder that has sys, proc, dev and usr.
        environ: its environment variables.
        versions: the versions of installed packages, by name.
        disk_free: the function free_bytes, or a test's.
        disk_rate: the function measure_disk, or a test's.
    """

    root: Path
    environ: Mapping[str, str]
    versions: Mapping[str, str]
    disk_free: Callable[[Path], int] = free_bytes
    disk_rate: Callable[[Path], float | None] = measure_disk

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
        """How many there are. Each is a chip; config/neuron.py has its number of NeuronCores."""
        return sum(1 for file in (self.root / "dev").glob("neuron*") if file.name[len("neuron") :].isdigit())

    def neuron_processes(self) -> list[DeviceUser]:
        """The other processes that have Neuron devices open, by their files in proc. Only those whose files may be read."""
        found = []
        for folder in sorted((self.root / "proc").glob("[0-9]*"), key=lambda folder: folder.name):
            if folder.name == str(os.getpid()):
                continue
            with contextlib.suppress(OSError):
                opened = {str(file.readlink()) for file in (folder / "fd").iterdir()}
                devices = sorted(name for name in opened if re.fullmatch(r"/dev/neuron\d+", name))
                if devices:
                    found.append(DeviceUser(int(folder.name), self._text(f"proc/{folder.name}/comm") or "unknown", devices))
        return found

    @property
    def gpu(self) -> bool:
        """Whether there may be a GPU for PyTorch: of NVIDIA, also below WSL (dxg), or of AMD (kfd)."""
        return any(found for name in ("nvidia[0-9]*", "dxg", "kfd") for found in (self.root / "dev").glob(name))

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
        known = [int(available) * 1024] if available else []
        limits = (self._free_in_container(*files) for files in _CGROUP_FILES)
        return min([*known, *(free for free in limits if free is not None)], default=None)

    def _free_in_container(self, limit_file: str, used_file: str, cached: str) -> int | None:
        """Free bytes by one version of control groups; None where it sets no limit. Cached files count as free."""
        limit, used = (self._text(f"sys/fs/cgroup/{name}") or "" for name in (limit_file, used_file))
        if not limit.isdigit() or int(limit) >= _NO_LIMIT:
            return None
        statistics = self._text(f"sys/fs/cgroup/{Path(limit_file).parent}/memory.stat") or ""
        files = sum(int(size) for size in re.findall(rf"^{cached} (\d+)$", statistics, re.MULTILINE))
        return max(0, int(limit) - max(0, int(used or 0) - files))

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
    return family_of(instance) == family_of(other)


def check_sdk() -> None:
    """Raises ConfigError when the Neuron SDK is not installed, without importing it."""
    if importlib.util.find_spec("neuronx_distributed_inference") is None:
        raise ConfigError(NO_SDK)


def check_devices(cores: int, cores_of_device: int) -> None:
    """Raises ConfigError when the machine has no Neuron device, or fewer than `cores` NeuronCores need."""
    count = this_machine().neuron_devices
    if not count:
        raise ConfigError(
            "This machine has no Neuron device (/dev/neuron0), so backend neuron cannot run here; use a trn1, inf2 or trn2 "
            "instance with its driver installed, or choose backend torch (--backend torch)."
        )
    if cores > count * cores_of_device:
        raise ConfigError(
            f"tensor_parallel_size is {cores}, but this machine shows {count * cores_of_device} NeuronCores (/dev/neuron0 to "
            f"/dev/neuron{count - 1}); pass every /dev/neuron* into the container, or set tensor_parallel_size to "
            f"{count * cores_of_device} or less."
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
            f"{wanted}, as the configuration says, or set instance_type to {here} and tensor_parallel_size to {CORES[here]} or "
            "less."
        )
