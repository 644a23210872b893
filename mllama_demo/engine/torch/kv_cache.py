"""Static key/value caches with one row per slot, in the shape that transformers' Mllama layers expect of a cache.

A prefill writes one row from position 0; a decode writes one token of every row, each at its own position.
"""

from __future__ import annotations

from typing import Any

import torch

# Keys and values [kv_heads, n, head_dim] of one slot in one layer; None for a layer that took no part.
Row = tuple[torch.Tensor, torch.Tensor] | None


class SelfAttentionSlots:
    """keys, values: [slots, kv_heads, max_seq_len, head_dim]."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values
        self.is_initialized = True


class CrossAttentionSlots(SelfAttentionSlots):
    """keys, values: [slots, kv_heads, tiles * patches, head_dim]. is_initialized: whether the layer takes part at all."""


class SlotCache:
    """The caches of all layers. Aim it with for_prefill or for_decode before each forward."""

    def __init__(
        self, config: Any, slots: int, max_seq_len: int, vision_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """config: the MllamaTextConfig. vision_tokens: keys of one image in cross-attention."""
        head_dim = config.hidden_size // config.num_attention_heads
        self.layers: list[SelfAttentionSlots] = []
        for index in range(config.num_hidden_layers):
            cross = index in config.cross_attention_layers
            shape = (slots, config.num_key_value_heads, vision_tokens if cross else max_seq_len, head_dim)
            keys, values = torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device)
            self.layers.append((CrossAttentionSlots if cross else SelfAttentionSlots)(keys, values))
        self._rows = torch.arange(slots, device=device)
        self._slot: int | None = None
        self._positions = torch.zeros(slots, dtype=torch.long, device=device)
        self._length = max_seq_len

    def for_prefill(self, slot: int, *, with_image: bool) -> None:
        """The next forward reads one prompt into `slot`."""
        self._slot = slot
        self._use_cross_attention(with_image)

    def for_decode(self, positions: torch.Tensor, length: int, *, with_images: bool) -> None:
        """The next forward feeds one token a row: row r is written at positions[r], and keys [0, length) are read."""
        self._slot, self._positions, self._length = None, positions, length
        self._use_cross_attention(with_images)

    def copy_out(self, slot: int, length: int, *, with_image: bool) -> list[Row]:
        """A copy of what a prefill of `length` tokens left in the slot: keys and values of each layer that took part."""
        rows: list[Row] = []
        for layer in self.layers:
            cross = isinstance(layer, CrossAttentionSlots)
            if cross and not with_image:
                rows.append(None)
                continue
            end = None if cross else length
            rows.append((layer.keys[slot, :, :end].clone(), layer.values[slot, :, :end].clone()))
        return rows

    def copy_in(self, slot: int, rows: list[Row]) -> None:
        """Puts such a copy into a slot, as if its prompt had been read there."""
        for layer, row in zip(self.layers, rows, strict=True):
            if row is not None:
                keys, values = row
                layer.keys[slot, :, : keys.shape[1]] = keys
                layer.values[slot, :, : values.shape[1]] = values

    def _use_cross_attention(self, use: bool) -> None:
        for layer in self.layers:
            if isinstance(layer, CrossAttentionSlots):
                layer.is_initialized = use

    # --- what transformers' layers call ---------------------------------------------------------------------------------

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_index: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores new keys and values [rows, kv_heads, n, head_dim]; returns those to attend to."""
        layer = self.layers[layer_index]
        if self._slot is not None:
            length = keys.shape[2]
            layer.keys[self._slot, :, :length] = keys[0]
            layer.values[self._slot, :, :length] = values[0]
            return keys, values
        layer.keys[self._rows, :, self._positions] = keys[:, :, 0]
        layer.values[self._rows, :, self._positions] = values[:, :, 0]
        return layer.keys[:, :, : self._length], layer.values[:, :, : self._length]

    def get_seq_length(self, layer_index: int = 0) -> int:
        """Asked only to find positions and masks, which the runner gives explicitly."""
        return 0
