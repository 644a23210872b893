"""Images as a compiled Llama 3.2 Vision model takes them: on four tiles, as the tensors of NxDI's forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from mllama_demo.engine.neuron.sdk import import_nxdi
from mllama_demo.images.tiles import tile_layout


@dataclass(frozen=True)
class VisionInputs:
    """The image arguments of one row. pixel_values: [1, 1, tiles, 3, side, side] in the model's dtype. aspect_ratios: int32
    [1, 1, 2], rows and columns. num_chunks: int32 [1, 1], tiles in use. has_image: int32 [1]."""

    pixel_values: torch.Tensor
    aspect_ratios: torch.Tensor
    num_chunks: torch.Tensor
    has_image: torch.Tensor


def on_full_canvas(image: Image.Image, tile_size: int, max_tiles: int) -> Image.Image:
    """The RGB image as the model's own preprocessing sizes it, but never on fewer than max_tiles tiles: one that would take
    fewer is drawn as large as they allow, in the top left corner of a black canvas (with four tiles: 2 × 2, 1 × 4 or 4 × 1).

    NxDI's prefill hides the empty tiles of an image that fills fewer, but its decode has no such mask: every generated token
    after the first would see what the vision encoder makes of nothing, and answers change for it. With all tiles in use,
    prefill and decode see the same. All of them are computed anyway, and an image that takes them all by itself comes out as
    NxDI would have made it, to the bit. Enlarged rather than padded: a model that has learnt from images of a fair size knows
    a blurred one better than one lost in black.
    """
    layout = tile_layout(image.width, image.height, tile_size, max_tiles, full_canvas=True)
    canvas = Image.new("RGB", (layout.columns * tile_size, layout.rows * tile_size))
    canvas.paste(image.resize((layout.width, layout.height), Image.Resampling.BILINEAR))
    return canvas


def vision_inputs(config: Any, image: Image.Image | None) -> VisionInputs:
    """What NxDI's get_image_tensors makes of one row with one RGB image or none. config: a MllamaInferenceConfig."""
    row = []
    if image is not None:
        row.append(on_full_canvas(image, config.vision_config.image_size, config.vision_config.max_num_tiles))
    # One row at a time: given several, NxDI looks at the first alone to see whether there are images.
    pixels, ratios, chunks, has_image = import_nxdi("models.mllama.utils").get_image_tensors(config, [row])
    return VisionInputs(pixels, ratios.to(torch.int32), chunks.to(torch.int32), has_image)
