"""The rules that depend on the model: whether NxDI can run it as configured, told from its config.json alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.config.model_shape import PUBLISHED, ModelShape, neuron_cross_layers, read_shape
from mllama_demo.config.neuron import first_problem
from mllama_demo.config.settings import Settings
from mllama_demo.errors import CheckpointError
from tests.support.neuron_options import TUTORIAL, load, refusal

SMALL = ModelShape(192, 512, 6, (1, 4), 6, 2, 1281, 2048, tile_size=84)


def checkpoint(folder: Path, shape: ModelShape, **changes: Any) -> Path:
    """A folder with no more than a config.json."""
    text = {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "cross_attention_layers": list(shape.cross_layers),
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_positions,
    }
    vision = {
        "hidden_size": shape.vision_hidden,
        "intermediate_size": shape.vision_ffn,
        "num_hidden_layers": shape.vision_layers,
        "num_global_layers": shape.vision_global_layers,
        "attention_heads": shape.vision_heads,
        "intermediate_layers_indices": [3, 7, 15, 23, 30],
        "image_size": shape.tile_size,
        "patch_size": shape.patch,
        "max_num_tiles": shape.tiles,
    }
    config = {"model_type": "mllama", "text_config": text | changes, "vision_config": vision}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_models_keep_the_tutorials_rules(tmp_path, size):
    folder = checkpoint(tmp_path / "model", PUBLISHED[size])
    assert read_shape(folder / "config.json") == PUBLISHED[size]
    assert load(tmp_path, TUTORIAL | {"model_path": str(folder)}).model_path == folder


@pytest.mark.parametrize(
    ("layers", "cross", "expected"),
    [
        (
            40,
            [4, 9, 14, 19, 24, 29, 34, 39],
            "looks for cross-attention in the layers 3, 8, 13, 18, …, 38, and this model has it in",
        ),
        (40, [3, 8, 13], "cannot spread its 3 cross-attention layers evenly over the other 37"),
        (5, [1, 3], "cannot spread its 2 cross-attention layers evenly over the other 3"),
    ],
)
def test_another_placement_of_cross_attention_is_refused(tmp_path, layers, cross, expected):
    folder = checkpoint(tmp_path / "model", PUBLISHED["11B"], num_hidden_layers=layers, cross_attention_layers=cross)
    message = refusal(tmp_path, TUTORIAL | {"model_path": str(folder)})
    assert message.startswith(f"model_path is {folder} (from ")
    assert expected in message
    assert "a checkpoint of Llama-3.2-11B-Vision or Llama-3.2-90B-Vision works." in message


def test_the_places_are_those_of_nxdis_formula():
    assert neuron_cross_layers(PUBLISHED["11B"]) == (3, 8, 13, 18, 23, 28, 33, 38)
    assert neuron_cross_layers(PUBLISHED["90B"]) == tuple(range(3, 100, 5))
    assert neuron_cross_layers(SMALL) == (1, 4)


@pytest.mark.parametrize(
    ("shape", "changes", "expected"),
    [
        (
            PUBLISHED["90B"],
            {"batch_size": 1, "seq_len": 32768, "token_generation_buckets": None, "context_encoding_buckets": None},
            "seq_len is 32768 (from {file}), but a model of the size of 90B is limited to 16384 tokens; 16384 works.",
        ),
        (
            replace(PUBLISHED["11B"], max_positions=8192),
            {"seq_len": 16384, "token_generation_buckets": None, "context_encoding_buckets": None},
            "seq_len is 16384 (from {file}), but the model was made for at most 8192 tokens; 8192 works.",
        ),
        (
            SMALL,
            {},
            "tensor_parallel_size is 32 (from {file}), but it must divide the model's 6 attention heads, and its 2 key-value "
            "heads as NxDI repeats them; 2 works.",
        ),
        (
            replace(PUBLISHED["11B"], kv_heads=4),
            {"tensor_parallel_size": 8},
            "tensor_parallel_size is 8 (from {file}), but it must divide the model's 32 attention heads, and its 4 key-value "
            "heads as NxDI repeats them; 4 works.",
        ),
        (
            replace(PUBLISHED["11B"], vocab=32),
            {},
            'on_device_sampling_config is {{"global_topk": 64, "dynamic": true, "deterministic": false}} (from {file}), but '
            'global_topk cannot exceed the vocabulary of 32 tokens; {{"global_topk": 32, "dynamic": true, "deterministic": '
            "false}} works.",
        ),
    ],
)
def test_a_rule_of_the_model_is_told_as_well(tmp_path, shape, changes, expected):
    options = TUTORIAL | {"model_path": str(checkpoint(tmp_path / "model", shape))} | changes
    assert refusal(tmp_path, options) == expected.format(file=tmp_path / "demo.yaml")
    problem = first_problem(Settings(**options).neuron, shape)
    assert problem is not None
    load(tmp_path, options | {problem.key: problem.works})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not valid JSON"),
        ("[]", "model of type None"),
        ('{"model_type": "llama"}', "model of type 'llama'"),
        ('{"model_type": "mllama"}', "has no text_config"),
        ('{"model_type": "mllama", "text_config": {}, "vision_config": {}}', "no list of cross_attention_layers"),
        (
            '{"model_type": "mllama", "text_config": {"cross_attention_layers": [1]}, "vision_config": {}}',
            "must give hidden_size as a whole number, but it is None",
        ),
    ],
)
def test_a_config_json_of_another_model_is_one_sentence(tmp_path, content, expected):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, TUTORIAL | {"model_path": str(tmp_path)})
    assert expected in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)
