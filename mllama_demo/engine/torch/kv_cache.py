"""A static key/value cache with one row per slot, with the interface that transformers' Mllama layers expect.

A prefill writes the row of one slot from position 0. A decode step writes one token in every row, each at its own position.
"""

from __future__ import annotations

from typing import Any

import torch

# Keys and values [kv_heads, n, head_dim] of one slot in one layer; None for cross-attention without an image.
LayerKV = tuple[torch.Tensor, torch.Tensor] | None


class SelfAttentionSlots:
    """The cache of one self-attention layer. keys, values: [slots, kv_heads, max_seq_len, head_dim]."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values
        self.is_initialized = True


class CrossAttentionSlots(SelfAttentionSlots):
    """The cache of one cross-attention layer. keys, values: [slots, kv_heads, tiles * patches, head_dim].

    Mllama skips the layer in a forward without cross_attention_states if is_initialized is False.
    """


class SlotCache:
    """The caches of all layers. Call for_prefill or for_decode before each forward."""

    def __init__(
        self, config: Any, slots: int, max_seq_len: int, vision_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """
        Args:
            config: The MllamaTextConfig.
            vision_tokens: Cross-attention keys of one image, tiles * patches.
        """
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
        """Prepares the next forward: a prefill of `slot`."""
        self._slot = slot
        self._use_cross_attention(with_image)

    def for_decode(self, positions: torch.Tensor, length: int, *, with_images: bool) -> None:
        """Prepares the next forward: a decode step that writes row r at positions[r] and attends to keys [0, length)."""
        self._slot, self._positions, self._length = None, positions, length
        self._use_cross_attention(with_images)

    def copy_out(self, slot: int, length: int, *, with_image: bool) -> list[LayerKV]:
        """Returns a copy of the keys and values of each layer after a prefill of `length` tokens in the slot."""
        layers: list[LayerKV] = []
        for layer in self.layers:
            cross = isinstance(layer, CrossAttentionSlots)
            if cross and not with_image:
                layers.append(None)
                continue
            end = None if cross else length
            layers.append((layer.keys[slot, :, :end].clone(), layer.values[slot, :, :end].clone()))
        return layers

    def copy_in(self, slot: int, layers: list[LayerKV]) -> None:
        """Writes the result of copy_out into a slot, which is then in the state after the same prefill."""
        for layer, copied in zip(self.layers, layers, strict=True):
            if copied is not None:
                keys, values = copied
                layer.keys[slot, :, : keys.shape[1]] = keys
                layer.values[slot, :, : values.shape[1]] = values

    def _use_cross_attention(self, use: bool) -> None:
        for layer in self.layers:
            if isinstance(layer, CrossAttentionSlots):
                layer.is_initialized = use

    # --- called by transformers' layers ---------------------------------------------------------------------------------

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_index: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores new keys and values [rows, kv_heads, n, head_dim]. Returns the keys and values to attend to."""
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
        """Returns 0. transformers uses the length only to compute positions and masks, which the runner passes explicitly."""
        return 0
