"""A static key/value cache with one row per slot. text_model.TextModel writes to it and attends to it in place."""

from __future__ import annotations

from typing import Any

import torch

# Attention reads a multiple of this many keys. Masked keys have a weight of exactly 0; whole blocks of them change no rounding.
KEY_BUCKET = 256


def in_buckets(keys: int) -> int:
    """Returns the number of keys, rounded up to a multiple of KEY_BUCKET."""
    return -(-keys // KEY_BUCKET) * KEY_BUCKET


class LayerCache:
    """The cache of one layer.

    Attributes:
        cross: The layer is a cross-attention layer.
        keys, values: [slots, kv_heads, n, head_dim]. In a cross-attention layer n is tiles * patches, in a self-attention layer
            max_seq_len + 1, both in buckets. The position max_seq_len is spare, for what belongs to no sequence.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, *, cross: bool) -> None:
        self.cross = cross
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)


class SlotCache:
    """The caches of all layers.

    Attributes:
        length: Positions of a sequence, max_seq_len.
    """

    def __init__(
        self, config: Any, slots: int, max_seq_len: int, vision_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """
        Args:
            config: The MllamaTextConfig.
            vision_tokens: Cross-attention keys of one image, tiles * patches.
        """
        self.length, self.dtype, self._vision_tokens = max_seq_len, dtype, vision_tokens
        head_dim = config.hidden_size // config.num_attention_heads
        self.layers: list[LayerCache] = []
        for index in range(config.num_hidden_layers):
            cross = index in config.cross_attention_layers
            length = in_buckets(vision_tokens if cross else max_seq_len + 1)
            shape = (slots, config.num_key_value_heads, length, head_dim)
            self.layers.append(LayerCache(shape, dtype, device, cross=cross))

    def write_image(self, slot: int, layer_index: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Stores the keys and values [kv_heads, tiles * patches, head_dim] of an image for one cross-attention layer."""
        layer = self.layers[layer_index]
        layer.keys[slot, :, : self._vision_tokens], layer.values[slot, :, : self._vision_tokens] = keys, values

    def empty(self, slot: int) -> None:
        """Overwrites all keys and values of a slot with 0."""
        for layer in self.layers:
            layer.keys[slot] = layer.values[slot] = 0

    def token_views(self, slot: int, start: int, end: int) -> list[torch.Tensor]:
        """Returns views of the positions [start, end): keys and values [kv_heads, end - start, head_dim] of each layer."""
        return [cached[slot, :, start:end] for layer in self.layers if not layer.cross for cached in (layer.keys, layer.values)]

    def image_views(self, slot: int) -> list[torch.Tensor]:
        """Returns views of the image: keys and values [kv_heads, tiles * patches, head_dim] of each cross-attention layer."""
        layers = [cached for layer in self.layers if layer.cross for cached in (layer.keys, layer.values)]
        return [cached[slot, :, : self._vision_tokens] for cached in layers]
