"""Makes the image tensors of NxDI's forward. Each image fills all tiles of the compiled Llama 3.2 Vision model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from mllama_demo.engine.neuron.sdk import import_nxdi
from mllama_demo.images.tiles import tile_layout


@dataclass(frozen=True)
class VisionInputs:
    """The image arguments of one row.

    Attributes:
        pixel_values: [1, 1, tiles, 3, tile size, tile size] in the model's dtype.
        aspect_ratios: int32 [1, 1, 2], rows and columns of tiles.
        num_chunks: int32 [1, 1], tiles in use.
        has_image: int32 [1], 0 or 1.
    """

    pixel_values: torch.Tensor
    aspect_ratios: torch.Tensor
    num_chunks: torch.Tensor
    has_image: torch.Tensor


def on_full_canvas(image: Image.Image, tile_size: int, max_tiles: int) -> Image.Image:
    """Resizes an RGB image so that it uses all max_tiles tiles (with four tiles: 2 × 2, 1 × 4 or 4 × 1).

    The image lies in the top left corner of a black canvas. The prefill of NxDI 0.9 masks unused tiles, but its decode does not:
    each token after the first would attend to the vision encoder's output for empty tiles. With all tiles in use, prefill and
    decode attend to the same tiles. This costs no time, because NxDI computes all tiles in any case.

    A small image is enlarged, not padded, because the model recognises a blurred image better than a tiny one. For an image that
    uses all tiles in the model's own preprocessing, the result is the same to the bit.
    """
    layout = tile_layout(image.width, image.height, tile_size, max_tiles, full_canvas=True)
    canvas = Image.new("RGB", (layout.columns * tile_size, layout.rows * tile_size))
    canvas.paste(image.resize((layout.width, layout.height), Image.Resampling.BILINEAR))
    return canvas


def vision_inputs(config: Any, image: Image.Image | None, *, full_canvas: bool = True) -> VisionInputs:
    """Returns NxDI's image tensors for one row with an RGB image, or without one. `config` is a MllamaInferenceConfig."""
    row = []
    if image is not None:
        size, tiles = config.vision_config.image_size, config.vision_config.max_num_tiles
        row.append(on_full_canvas(image, size, tiles) if full_canvas else image)
    # For several rows, NxDI 0.9 checks only the first for an image. So each call has one row.
    pixels, ratios, chunks, has_image = import_nxdi("models.mllama.utils").get_image_tensors(config, [row])
    return VisionInputs(pixels, ratios.to(torch.int32), chunks.to(torch.int32), has_image)
