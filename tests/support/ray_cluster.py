"""A Ray cluster of this machine with replicas of the embedded checkpoint."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.engine.base import BackendInfo
from mllama_demo.engine.simulated.profile import DeviceProfile
from mllama_demo.engine.simulated.runner import SimulatedRunner
from mllama_demo.engine.slot_backend import SlotBackend
from scripts.local_ray import local_cluster


def make_stuck(flag: Path, on_ready: Callable[[], None], on_down: Callable[[str], None]) -> SlotBackend:
    """The backend of a replica whose steps do not end while the file is there."""

    def take_time(seconds: float) -> None:
        while flag.exists():
            time.sleep(0.05)

    device = DeviceProfile("a device", "a test", True, {1: 0.0}, {1: 0.0})
    info = BackendInfo("simulated", "embedded", "a device", 1, 2048, 0, 0)
    return SlotBackend(
        info,
        lambda progress: SimulatedRunner(device, slots=1, max_seq_len=2048, take_time=take_time),
        Tokenizer(EMBEDDED_CHECKPOINT),
        frozenset(),
        on_ready=on_ready,
        on_down=on_down,
    )


@dataclass
class Cluster:
    """address: host:port of the head. environment: of the programs that use it."""

    address: str
    environment: dict[str, str]

    def deploy(self, *options: str) -> subprocess.CompletedProcess[str]:
        """`ray-deploy` to its end."""
        line = [sys.executable, "-m", "mllama_demo", "ray-deploy", "--ray-address", self.address, *options]
        return subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=240)


@contextmanager
def ray_cluster(cpus: int = 6) -> Iterator[Cluster]:
    with local_cluster(cpus) as (address, environment):
        yield Cluster(address, environment)
