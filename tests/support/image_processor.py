"""transformers' image processor of Llama 3.2 Vision that computes with Pillow, and its functions for tiles.

transformers 5 has it in a module of its own; in transformers 4 it is the only one.
"""

from __future__ import annotations

import importlib
import importlib.util

_MODELS = "transformers.models.mllama."
_IN_5 = importlib.util.find_spec(_MODELS + "image_processing_pil_mllama") is not None
_module = importlib.import_module(_MODELS + ("image_processing_pil_mllama" if _IN_5 else "image_processing_mllama"))

MllamaImageProcessorPil = _module.MllamaImageProcessorPil if _IN_5 else _module.MllamaImageProcessor
get_all_supported_aspect_ratios = _module.get_all_supported_aspect_ratios
get_image_size_fit_to_canvas = _module.get_image_size_fit_to_canvas
get_optimal_tiled_canvas = _module.get_optimal_tiled_canvas
