"""What can be known of a machine from its own files: which EC2 instance it is, its Neuron devices and driver, its memory.

Reads /sys, /proc, /dev and /usr/src under a root that a test may put elsewhere, and never the network.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class Machine:
    """root: where /sys and its like are looked for. versions: of the installed packages, by name. disk_free: bytes free on the
    disk of an existing folder."""

    root: Path
    environ: Mapping[str, str]
    versions: Mapping[str, str]
    disk_free: Callable[[Path], int] = _free

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


def this_machine(packages: Sequence[str]) -> Machine:
    """packages: whose versions are wanted."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Machine(Path("/"), os.environ, versions)


def version_key(version: str) -> tuple[int, ...]:
    """To compare versions by; only the release counts ("2.19.8089.0+8ab9f450" as 2.19.8089.0)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
