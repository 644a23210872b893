"""The doctor's diagnose at a described machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mllama_demo.checkpoint.doctor import examine
from mllama_demo.checkpoint.findings import Finding
from mllama_demo.config.neuron import CORES
from mllama_demo.config.settings import Settings
from tests.support.described_machine import Described, by_name, write_checkpoint


@pytest.fixture
def checkpoint_90b(tmp_path, embedded) -> Path:
    return write_checkpoint(tmp_path / "Llama-3.2-90B-Vision-Instruct", embedded, "90B")


@pytest.fixture
def diagnose(tmp_path, checkpoint_90b):
    """diagnose(machine, option=…): the findings of a 90B configuration on it, by what was looked at."""

    def diagnose(described: Described, **options: Any) -> dict[str, Finding]:
        instance = {"instance_type": described.product} if described.product in CORES else {}
        cores = {"tensor_parallel_size": 16} if described.product == "inf2.48xlarge" else {}
        settings = Settings(**{"backend": "neuron", "model_path": checkpoint_90b, **instance, **cores, **options})
        return by_name(examine(described.build(tmp_path / "machine"), settings))

    return diagnose
