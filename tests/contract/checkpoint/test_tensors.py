"""The tensors that config.json implies are the parameters of transformers' model, by its names and shapes."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration

from mllama_demo.checkpoint.tensors import expected_tensors, newer_name
from mllama_demo.engine.torch.loading import load_model

CASES: dict[str, dict[str, dict[str, Any]]] = {
    "embedded": {},
    "other sizes": {
        "text_config": {
            "intermediate_size": 320,
            "num_key_value_heads": 3,
            "cross_attention_layers": [0, 2, 5],
            "vocab_size": 3000,
        },
        "vision_config": {"num_channels": 1, "num_global_layers": 3, "intermediate_size": 96, "patch_size": 21},
    },
    "two tiles": {
        "vision_config": {"max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]},
    },
    "tied": {"text_config": {"tie_word_embeddings": True}},
}


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_are_those_of_transformers(tmp_path, embedded, case):
    config = json.loads((embedded / "config.json").read_bytes())
    for section, values in CASES[case].items():
        config[section].update(values)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    read: Any = MllamaConfig.from_pretrained(tmp_path, local_files_only=True)
    read.text_config.tie_word_embeddings = False  # as transformers 5 has it for this model
    with torch.device("meta"):
        model = MllamaForConditionalGeneration(read)
    theirs = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert {newer_name(name): shape for name, shape in expected_tensors(file, config).items()} == theirs


def test_the_loader_reads_the_output_layer_of_a_checkpoint_that_says_it_is_tied(tmp_path, embedded):
    shutil.copytree(embedded, tmp_path / "tied")
    config = json.loads((tmp_path / "tied" / "config.json").read_bytes())
    config["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "tied" / "config.json").write_text(json.dumps(config))
    loaded, plain = load_model(tmp_path / "tied"), load_model(embedded)
    assert torch.equal(loaded.lm_head.weight, plain.lm_head.weight)
    assert not [name for name, parameter in loaded.named_parameters() if parameter.is_meta]


def test_the_loader_takes_every_tensor_of_the_embedded_checkpoint(embedded):
    file = embedded / "config.json"
    loaded = dict(load_model(embedded).named_parameters())
    assert set(loaded) == {newer_name(name) for name in expected_tensors(file, json.loads(file.read_bytes()))}
    assert not [name for name, parameter in loaded.items() if parameter.is_meta]
