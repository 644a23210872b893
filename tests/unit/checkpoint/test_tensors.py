"""The tensors that config.json implies are those that the checkpoints have."""

from __future__ import annotations

import json
import math

import pytest
from safetensors import safe_open

from mllama_demo.checkpoint.memory import core_parameters
from mllama_demo.checkpoint.tensors import expected_tensors
from mllama_demo.config.model_shape import PUBLISHED
from mllama_demo.errors import CheckpointError
from tests.support.described_machine import write_checkpoint


def test_the_embedded_checkpoint_has_exactly_these(embedded):
    file = embedded / "config.json"
    with safe_open(embedded / "model.safetensors", "numpy") as weights:
        found = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    assert expected_tensors(file, json.loads(file.read_bytes())) == found


@pytest.mark.parametrize("size", ["11B", "90B"])
def test_a_published_model_has_as_many_parameters_as_the_plan_counts(tmp_path, embedded, size):
    file = write_checkpoint(tmp_path / size, embedded, size) / "config.json"
    found = expected_tensors(file, json.loads(file.read_bytes()))
    assert sum(math.prod(shape) for shape in found.values()) == core_parameters(PUBLISHED[size], 1)


@pytest.mark.parametrize("key", ["num_channels", "vision_output_dim"])
def test_a_size_that_is_no_number_is_named(tmp_path, embedded, key):
    file = tmp_path / "config.json"
    config = json.loads((embedded / "config.json").read_bytes())
    config["vision_config"][key] = "many"
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"must give {key} as a whole number, but it is 'many'"):
        expected_tensors(file, config)
