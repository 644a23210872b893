"""Neuron configurations as files, and the sentence with which one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError
from tests.support.paths import ROOT

CONFIGS = sorted(file for file in (ROOT / "configs").glob("*.yaml") if "backend: neuron" in file.read_text())
TUTORIAL: dict[str, Any] = {
    "backend": "neuron",
    "model_path": "/home/ubuntu/model_hf/Llama-3.2-90B-Vision-Instruct-hf",
    "instance_type": "trn1.32xlarge",
    "batch_size": 4,
    "seq_len": 2048,
    "tensor_parallel_size": 32,
    "context_encoding_buckets": [1024, 2048],
    "token_generation_buckets": [1024, 2048],
    "sequence_parallel_enabled": False,
    "is_continuous_batching": True,
    "on_device_sampling_config": {"global_topk": 64, "dynamic": True, "deterministic": False},
}


def write(folder: Path, options: dict[str, Any]) -> Path:
    file = folder / "demo.yaml"
    file.write_text(yaml.safe_dump(options))
    return file


def load(folder: Path, options: dict[str, Any]) -> Settings:
    return load_settings(["--config", str(write(folder, options))], {})


def refusal(folder: Path, options: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message
