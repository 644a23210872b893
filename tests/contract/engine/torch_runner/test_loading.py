# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
"""Loading a checkpoint tensor by tensor: the same model as transformers loads, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MllamaForConditionalGeneration

from mllama_demo.engine.torch.loading import load_model
from mllama_demo.engine.torch.quantized import ExpandingLinear, OnnxLinear, StoredEmbedding, StoredLinear
from mllama_demo.engine.torch.runner import TorchRunner
from mllama_demo.errors import CheckpointError
from mllama_demo.runtime.cpu import has_bfloat16_units

HEAD = "language_model.lm_head.weight"


@pytest.fixture
def copy(random_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_checkpoint, tmp_path / "copy"))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["embedded", "random_checkpoint"])
def test_without_quantization_every_number_is_that_of_transformers(name, dtype, request):
    folder = request.getfixturevalue(name)
    expected = MllamaForConditionalGeneration.from_pretrained(folder, dtype=dtype, local_files_only=True)
    loaded = load_model(folder, dtype=dtype)
    assert weights(loaded).keys() == weights(expected).keys()
    for key, tensor in weights(expected).items():
        assert torch.equal(weights(loaded)[key], tensor), key
        assert weights(loaded)[key].dtype == tensor.dtype, key
    assert loaded.config._attn_implementation == expected.config._attn_implementation
    assert not loaded.training


def test_weights_in_several_files_are_found_by_their_index(copy, random_checkpoint):
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, copy / file, {"format": "pt"})
    (copy / "model.safetensors").unlink()
    placed = {name: file for file, part in parts.items() for name in part}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    expected = weights(load_model(random_checkpoint))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(load_model(copy)).items())


def test_the_progress_ends_with_all_bytes(random_checkpoint):
    told: list[tuple[int, int]] = []
    load_model(random_checkpoint, report=lambda done, total: told.append((done, total)))
    size = (random_checkpoint / "model.safetensors").stat().st_size
    assert told == sorted(told)
    assert {total for _, total in told} == {size}
    assert told[-1] == (size, size)
    assert len(told) > 50


@pytest.mark.slow
@pytest.mark.parametrize(("quantization", "bits"), [("int8", 8), ("int4", 4)])
def test_the_text_model_is_quantized_and_the_vision_encoder_keeps_its_numbers(random_checkpoint, quantization, bits):
    original = load_model(random_checkpoint, dtype=torch.bfloat16)
    model = load_model(random_checkpoint, quantization=quantization)
    text = [m for m in model.model.language_model.modules() if isinstance(m, OnnxLinear)]
    assert len(text) == 4 * 7
    assert {layer.bits for layer in text} == {bits}
    assert isinstance(model.lm_head, OnnxLinear)
    assert model.lm_head.bits == 8
    assert model.dtype == torch.float32
    assert not [name for name, module in model.named_modules() if type(module) is nn.Linear]
    for name, module in model.named_modules():
        if isinstance(module, (StoredLinear, StoredEmbedding)):
            assert torch.equal(module.weight, original.get_submodule(name).weight), name
    assert isinstance(model.model.vision_model.transformer.layers[0].mlp.fc1, StoredLinear)
    assert isinstance(model.model.language_model.embed_tokens, StoredEmbedding)


def test_a_runner_does_not_expand_what_is_stored_in_bfloat16(random_checkpoint):
    runner = TorchRunner.load(random_checkpoint, slots=1, max_seq_len=256, quantization="int4")
    layer = runner._model.model.vision_model.transformer.layers[0]
    assert layer.mlp.fc1.weight.dtype == torch.bfloat16
    assert layer.input_layernorm.weight.dtype == (torch.bfloat16 if has_bfloat16_units() else torch.float32)


def test_a_checkpoint_in_float32_keeps_its_vision_encoder_as_it_is(copy):
    tensors = {name: tensor.float() for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    model = load_model(copy, quantization="int8")
    assert type(model.model.vision_model.transformer.layers[0].mlp.fc1) is nn.Linear
    assert isinstance(model.lm_head, OnnxLinear)


def test_another_device_than_the_cpu_gets_layers_of_pytorch(random_checkpoint):
    """The meta device stands for a GPU: it shows which layers are chosen, not what they compute."""
    model = load_model(random_checkpoint, device="meta", dtype=torch.bfloat16, quantization="int4")
    assert isinstance(model.lm_head, ExpandingLinear)
    assert model.lm_head.codes.device.type == "meta"
    assert type(model.model.vision_model.transformer.layers[0].mlp.fc1) is nn.Linear


def test_a_missing_tensor_is_named(copy):
    tensors = load_file(copy / "model.safetensors")
    del tensors["language_model.model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack the tensor model.language_model.layers.1.mlp.up_proj.weight; download"):
        load_model(copy)


def test_a_tensor_of_another_shape_is_named(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors[HEAD] = tensors[HEAD][:-1].clone()
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"lm_head.weight of the shape \[1279, 128\], but config.json asks for \[1280, 128\]"
    ):
        load_model(copy, quantization="int4")
