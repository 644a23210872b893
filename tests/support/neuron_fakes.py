"""A machine with a Neuron SDK and a device, as far as compiling and loading go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mllama_demo.checkpoint import machine

FAKE_SDK = Path(__file__).resolve().parent / "fake_sdk"
ROOT = FAKE_SDK.parents[2]


def worker_path() -> str:
    """PYTHONPATH for the process that compiles."""
    return os.pathsep.join(map(str, (FAKE_SDK, FAKE_SDK / "light")))


def install_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FAKE_SDK)
    monkeypatch.setenv("PYTHONPATH", worker_path())
    for name in ("FAKE_COMPILE", "NEURON_COMPILED_ARTIFACTS", "NEURON_CC_FLAGS", "NEURON_LOGICAL_NC_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def be_an_instance(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str | None) -> None:
    """The machine is of this type; None: of no type that is known."""
    firmware = folder / "sys/devices/virtual/dmi/id"
    firmware.mkdir(parents=True, exist_ok=True)
    (firmware / "sys_vendor").write_text("Amazon EC2\n" if name else "QEMU\n")
    (firmware / "product_name").write_text(f"{name or 'Standard PC'}\n")
    monkeypatch.setattr(machine, "ROOT", folder)


def have_devices(monkeypatch: pytest.MonkeyPatch, folder: Path, count: int = 16) -> None:
    """The machine has `count` devices, those of a trn1.32xlarge by default; folder: as for be_an_instance."""
    (folder / "dev").mkdir()
    for number in range(count):
        (folder / f"dev/neuron{number}").touch()
    monkeypatch.setattr(machine, "ROOT", folder)
