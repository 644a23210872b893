"""The sizes of a Llama 3.2 Vision model, read from a config.json or known of the two published models. Needs no weights."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama_demo.errors import CheckpointError

LEARNABLE_TOKENS = 8  # embedding rows behind the vocabulary, `<|image|>` first


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model, enough to compute its memory and to check whether Neuron's code can run it.

    Attributes:
        layers: the number of text layers, self-attention and cross-attention together.
        cross_layers: the indices of the cross-attention layers.
        vision_features: how many intermediate layers of the vision encoder are passed on with its output.
        tile_size, patch: in pixels.
        tiles: the largest number of tiles of an image.
    """

    hidden: int
    ffn: int
    layers: int
    cross_layers: tuple[int, ...]
    heads: int
    kv_heads: int
    vocab: int
    max_positions: int
    vision_hidden: int = 1280
    vision_ffn: int = 5120
    vision_layers: int = 32
    vision_global_layers: int = 8
    vision_heads: int = 16
    vision_features: int = 5
    tile_size: int = 560
    patch: int = 14
    tiles: int = 4

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def self_layers(self) -> int:
        return self.layers - len(self.cross_layers)

    @property
    def patches(self) -> int:
        """Patches of one tile, and the class token."""
        return (self.tile_size // self.patch) ** 2 + 1

    @property
    def vision_tokens(self) -> int:
        """Tokens of one image for cross-attention: all patches of all tiles, including the tiles that the image leaves empty."""
        return self.tiles * self.patches

    @property
    def ratios(self) -> int:
        """The number of aspect ratios: arrangements of at most `tiles` tiles."""
        return sum(self.tiles // height for height in range(1, self.tiles + 1))


PUBLISHED = {
    "11B": ModelShape(4096, 14336, 40, tuple(range(3, 40, 5)), 32, 8, 128256, 131072),
    "90B": ModelShape(8192, 28672, 100, tuple(range(3, 100, 5)), 64, 8, 128256, 131072),
}


def published_size(name: str) -> str | None:
    """The key in PUBLISHED that a name such as Llama-3.2-90B-Vision-Instruct-hf tells; None if it tells none."""
    return next((size for size in PUBLISHED if re.search(rf"(?<!\d){size}", name, re.IGNORECASE)), None)


def published_by_name(name: str) -> ModelShape | None:
    """The sizes of the published model that a name tells, see published_size."""
    size = published_size(name)
    return None if size is None else PUBLISHED[size]


def neuron_cross_layers(shape: ModelShape) -> tuple[int, ...] | None:
    """The indices where NxDI's code expects the cross-attention layers; None when it cannot spread them evenly.

    NxDI computes the indices from the numbers of layers, in hf_state_dict_conversion.py, and ignores the configuration.
    """
    cross = len(shape.cross_layers)
    if not cross or shape.self_layers % cross:
        return None
    step = math.ceil(shape.self_layers / cross)
    return tuple(range(step - 1, shape.layers, step + 1))


def read_shape(file: Path) -> ModelShape:
    """Reads a config.json. Raises CheckpointError with one sentence when it is missing or is of another model."""
    content = _read_config(file)
    text, vision = (_section(file, content, name) for name in ("text_config", "vision_config"))
    places = text.get("cross_attention_layers")
    if not isinstance(places, list) or not places or not all(type(layer) is int for layer in places):
        raise CheckpointError(f"{file} has no list of cross_attention_layers in its text_config; download it again.")

    def number(section: dict[str, Any], key: str) -> int:
        value = section.get(key)
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{file} must give {key} as a whole number, but it is {value!r}; download it again.")
        return value

    features = vision.get("intermediate_layers_indices")
    return ModelShape(
        hidden=number(text, "hidden_size"),
        ffn=number(text, "intermediate_size"),
        layers=number(text, "num_hidden_layers"),
        cross_layers=tuple(places),
        heads=number(text, "num_attention_heads"),
        kv_heads=number(text, "num_key_value_heads"),
        vocab=number(text, "vocab_size"),
        max_positions=number(text, "max_position_embeddings"),
        vision_hidden=number(vision, "hidden_size"),
        vision_ffn=number(vision, "intermediate_size") if "intermediate_size" in vision else 4 * number(vision, "hidden_size"),
        vision_layers=number(vision, "num_hidden_layers"),
        vision_global_layers=number(vision, "num_global_layers"),
        vision_heads=number(vision, "attention_heads"),
        vision_features=len(features) if isinstance(features, list) else 5,
        tile_size=number(vision, "image_size"),
        patch=number(vision, "patch_size"),
        tiles=number(vision, "max_num_tiles"),
    )


def read_dtype(file: Path) -> str | None:
    """The type of the weights by a config.json, such as "bfloat16"; None when it names none. Raises as read_shape does."""
    content = _read_config(file)
    name = content.get("dtype", content.get("torch_dtype"))  # dtype since transformers 4.56
    return name if isinstance(name, str) else None


def _read_config(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}); set model_path to a checkpoint's folder.") from None
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); download it again.") from None
    if not isinstance(content, dict) or content.get("model_type") != "mllama":
        kind = content.get("model_type") if isinstance(content, dict) else None
        raise CheckpointError(f"{file} describes a model of type {kind!r}; this demo needs 'mllama', as of Llama-3.2-11B-Vision.")
    return content


def _section(file: Path, content: dict[str, Any], name: str) -> dict[str, Any]:
    section = content.get(name)
    if not isinstance(section, dict):
        raise CheckpointError(f"{file} has no {name}; download it again.")
    return section
