"""Corrects how vLLM's Neuron fork prepares images for Llama 3.2 Vision. Runs in this process, and in a server as a plugin.

The faults, read in the sources of the fork (v0.6.x, v0.7.2 at its tag 2.24.0, and the version based on 0.9, up to its commit
000c2330 that serves Llava too) and of NxDI 0.9:

- The compiled graph has the aspect ratio ids of its example as constants, see engine/neuron/sdk.py.
- Decode steps attend to the empty tiles of an image of fewer than four tiles, see engine/neuron/images.py. Each image is placed
  on a canvas of four full tiles instead.
- The version based on 0.9 looks an id, which counts from 1, up in a list that counts from 0. 2 × 2 tiles become 3 × 1, and an
  image of 4 × 1 tiles ends in an IndexError.

The modules are corrected when they are imported, because a process of vLLM that needs none of them should not import the Neuron
SDK.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from mllama_demo.runtime.import_hook import Patch, patch_on_import

log = logging.getLogger("vllm.mllama_demo")  # a server of vLLM shows what is below its own logger
VERSION = 1  # of the corrections that change the compiled graph; see arguments.engine_environment
_APPLIED = "_corrected_by_mllama_demo"


def install() -> None:
    """Corrects the modules that are imported already, and the others when they are imported. A second call changes nothing."""
    for name, correct in _CORRECTIONS.items():
        patch_on_import(name, functools.partial(_apply, correct))


def _apply(correct: Patch, module: ModuleType) -> None:
    if not hasattr(module, _APPLIED):
        correct(module)
        setattr(module, _APPLIED, True)
        log.info("mllama_demo corrects %s", module.__name__)


# A module's type has no attributes of its own, so that each replacement of a function needs a type: ignore.


def _correct_ids(module: ModuleType) -> None:
    from mllama_demo.engine.neuron.sdk import aspect_ratio_ids

    module.convert_aspect_ratios_to_ids = aspect_ratio_ids  # type: ignore[attr-defined]  # of any module


def _correct_runner(module: ModuleType) -> None:
    preprocess = getattr(module, "custom_image_preprocessing", None)
    if preprocess is not None:  # v0.6.x and v0.7.2

        @functools.wraps(preprocess)
        def on_full_canvases(config: Any, batch_images: Sequence[Sequence[Any]]) -> Any:
            return preprocess(config, [[_on_full_canvas(image, config.vision_config) for image in row] for row in batch_images])

        module.custom_image_preprocessing = on_full_canvases  # type: ignore[attr-defined]  # of any module
    ratios = getattr(module, "get_all_supported_aspect_ratios", None)
    if ratios is not None:  # based on 0.9
        # Id 0 stands for padding, where there is no image.
        module.get_all_supported_aspect_ratios = lambda max_tiles: [(1, 1), *ratios(max_tiles)]  # type: ignore[attr-defined]  # of any module


def _correct_processor(module: ModuleType) -> None:
    processor = getattr(module, "MllamaMultiModalProcessor", None)
    if processor is None:  # v0.6.x and v0.7.2 have another way, see _correct_runner
        return
    call = processor._call_hf_processor

    @functools.wraps(call)
    def on_full_canvases(self: Any, prompt: str, mm_data: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        if mm_data and "images" in mm_data:
            config = self.info.get_hf_config().vision_config
            mm_data = {**mm_data, "images": [_on_full_canvas(image, config) for image in mm_data["images"]]}
        return call(self, prompt, mm_data, *args, **kwargs)

    processor._call_hf_processor = on_full_canvases


_CORRECTIONS: dict[str, Patch] = {
    "neuronx_distributed_inference.models.mllama.modeling_mllama_vision": _correct_ids,
    "vllm.worker.neuronx_distributed_model_runner": _correct_runner,
    "vllm.model_executor.models.mllama": _correct_processor,
}


def _on_full_canvas(image: Any, vision_config: Any) -> Any:
    from mllama_demo.engine.neuron.images import on_full_canvas

    return on_full_canvas(image.convert("RGB"), vision_config.image_size, vision_config.max_num_tiles)
