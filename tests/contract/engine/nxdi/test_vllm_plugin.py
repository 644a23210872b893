"""The corrections of vLLM's Neuron fork on NxDI's real code: an image becomes what the demo's own engine makes of it.

The fork itself is in tests/contract/engine/test_vllm_fork_corrections.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mllama_demo.engine.neuron.images import on_full_canvas, vision_inputs
from mllama_demo.engine.neuron.sdk import aspect_ratio_ids, import_nxdi
from mllama_demo.engine.vllm import corrections
from tests.contract.engine.nxdi.cases import picture

SIZES = [(2, 2), (1.2, 1.2), (4, 1), (0.3, 0.2), (1, 4), (9, 7.3), (0.5, 3.4), (1, 1), (2.9, 0.4)]


def test_nxdis_ids_are_corrected_where_the_vision_model_looks_them_up(runner) -> None:
    vision = sys.modules["neuronx_distributed_inference.models.mllama.modeling_mllama_vision"]
    own = import_nxdi("models.mllama.aspect_ratio_utils").convert_aspect_ratios_to_ids
    assert own is not aspect_ratio_ids
    vision.convert_aspect_ratios_to_ids = own
    if hasattr(vision, corrections._APPLIED):
        delattr(vision, corrections._APPLIED)
    corrections.install()
    assert vision.convert_aspect_ratios_to_ids is aspect_ratio_ids


@pytest.mark.parametrize("size", SIZES)
def test_the_preprocessing_that_v06_and_v07_call_makes_the_tensors_of_the_demos_engine(runner, size) -> None:
    config = runner._config
    tile = config.vision_config.image_size
    module = ModuleType("vllm.worker.neuronx_distributed_model_runner")
    module.custom_image_preprocessing = import_nxdi("models.mllama.image_transform").custom_image_preprocessing
    corrections._correct_runner(module)
    image = picture(size[0] * tile, size[1] * tile, 3).pixels
    pixels, ratios, chunks = module.custom_image_preprocessing(config, [[image]])
    ours = vision_inputs(config, image)
    assert torch.equal(pixels, ours.pixel_values)
    assert torch.equal(ratios.to(torch.int32), ours.aspect_ratios)
    assert chunks.tolist() == ours.num_chunks.tolist() == [[4]]


@pytest.mark.parametrize("size", SIZES)
def test_transformers_processor_and_the_corrected_list_of_09_make_the_tensors_of_the_demos_engine(
    runner, embedded: Path, size
) -> None:
    from transformers import AutoImageProcessor

    config = runner._config
    tile, tiles = config.vision_config.image_size, config.vision_config.max_num_tiles
    module = ModuleType("vllm.worker.neuronx_distributed_model_runner")
    module.get_all_supported_aspect_ratios = import_nxdi("models.mllama.aspect_ratio_utils").get_all_supported_aspect_ratios
    corrections._correct_runner(module)
    image = picture(size[0] * tile, size[1] * tile, 3).pixels
    canvas = on_full_canvas(image, tile, tiles)
    made = AutoImageProcessor.from_pretrained(embedded)(images=[[canvas]], return_tensors="pt")
    ours = vision_inputs(config, image)
    assert torch.equal(made["pixel_values"].to(ours.pixel_values.dtype), ours.pixel_values)
    [[identifier]] = made["aspect_ratio_ids"].tolist()
    assert module.get_all_supported_aspect_ratios(tiles)[identifier] == tuple(ours.aspect_ratios[0, 0].tolist())
