"""Pictures of 4,096 rows and more, as real ones have: up to 0.8, NxDI computes their vision attention with an NKI kernel.

The embedded checkpoint has fewer rows, so these tests give it larger tiles, with random embeddings of positions. The kernel is a
stand-in (neuron_stubs.attention_kernel). The tests show that the layout of what goes into it and comes out of it is right, and
that padding is hidden from it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mllama_demo.engine.neuron.runner import NeuronRunner
from mllama_demo.engine.neuron.sdk import import_nxdi
from tests.contract.engine.nxdi import cpu_device, neuron_stubs
from tests.contract.engine.nxdi.cases import Case, ask, assert_as_meta, finish, picture, start

TILE_PATCHES = 32  # along a side; four tiles then have 4 * (32 * 32 + 1) rows, padded to a multiple of 8 for each tile
KERNEL_ROWS = 4096


def with_larger_tiles(embedded: Path, folder: Path) -> Path:
    """The embedded checkpoint for tiles of TILE_PATCHES patches along a side."""
    shutil.copytree(embedded, folder)
    config = json.loads((folder / "config.json").read_text())
    eyes = config["vision_config"]
    eyes["image_size"] = TILE_PATCHES * eyes["patch_size"]
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    processor["size"] = {"height": eyes["image_size"], "width": eyes["image_size"]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    weights = load_file(folder / "model.safetensors")
    position, chance = "vision_model.gated_positional_embedding.", torch.Generator().manual_seed(0)
    patches, width = TILE_PATCHES**2 + 1, eyes["hidden_size"]
    for name, shape in (
        (position + "embedding", (patches, width)),
        (position + "tile_embedding.weight", (weights[position + "tile_embedding.weight"].shape[0], 4 * patches * width)),
    ):
        old = weights[name]
        weights[name] = (torch.randn(shape, generator=chance) * old.float().std()).to(old.dtype)
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def checkpoint(embedded: Path, tmp_path_factory, nxdi: None) -> Path:
    return with_larger_tiles(embedded, tmp_path_factory.mktemp("larger") / "checkpoint")


@pytest.fixture(scope="module")
def large_reference(checkpoint: Path):
    from tests.support.meta_reference import MetaReference

    return MetaReference(checkpoint)


@pytest.fixture(scope="module")
def large_runner(checkpoint: Path) -> NeuronRunner:
    model = cpu_device.make_model(checkpoint, slots=2)
    cpu_device.load(model)
    return NeuronRunner(model, model.config.image_token_index)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 2), (2, 2), (4, 1)])
def test_a_picture_with_as_many_rows_as_a_real_one_is_answered_as_by_meta(
    tokenizer, large_reference, large_runner, rows, columns
):
    tile = large_reference.eyes["image_size"]
    neuron_stubs.kernel_calls.clear()
    question = ask(tokenizer, "What is in this image?", image=picture(columns * tile, rows * tile, 10 * rows + columns))
    case = Case(question, 6)
    start(large_runner, 1, case)
    finish(large_runner, {1: case})
    large_runner.release(1)
    assert_as_meta(large_reference, case)
    vision = import_nxdi("models.mllama.modeling_mllama_vision")
    layers = large_reference.eyes["num_hidden_layers"] + large_reference.eyes["num_global_layers"]
    calls = layers if hasattr(vision, "_flash_fwd_call") else 0  # NxDI 0.9 has no such kernel any more
    assert len(neuron_stubs.kernel_calls) == calls
    assert all(shape[-1] >= KERNEL_ROWS for shape in neuron_stubs.kernel_calls)
