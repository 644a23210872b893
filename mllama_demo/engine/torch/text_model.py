"""The text half of Llama 3.2 Vision over a SlotCache: reads a piece of a prompt, or runs a decode step of the live slots.

Computes what Meta's reference does (meta_mllama.py says where transformers differs), with the weights of a transformers model.
A decode step has one row for each live slot. Positions, masks and rotations are made once a step, query, key and value have one
matrix, and attention reads the cache in place. The rows of a step do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.mllama.modeling_mllama import MllamaCrossAttentionDecoderLayer, MllamaForConditionalGeneration

from mllama_demo.engine.torch.kv_cache import KEY_BUCKET, SlotCache, in_buckets
from mllama_demo.engine.torch.linear import Linear, prepare

# check_rows tries each number of slots up to this, and all slots, at a position where attention has some keys.
MOST_CHECKED_ROWS = 16
CHECKED_POSITION = 40
# The number of queries of one attention is a multiple of this. PyTorch's kernel gives each thread a part of one buffer, and MKL
# rounds in another way if the part does not begin at a multiple of 64 bytes.
ALIGNED_QUERIES = 8


@dataclass(frozen=True)
class _Norm:
    """RMSNorm of states with the type of `weight` [features]. dtype: of the result."""

    weight: torch.Tensor
    eps: float
    dtype: torch.dtype

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(states, self.weight.shape, self.weight, self.eps).to(self.dtype)


@dataclass(frozen=True)
class _Layer:
    """The weights of a decoder layer.

    Attributes:
        project: Query, key and value; of a cross-attention layer the query alone.
        query_norm: Of a cross-attention layer; None in a self-attention layer.
        attention_gate, mlp_gate: [1], of a cross-attention layer.
    """

    attention_norm: _Norm
    project: Linear
    output: Linear
    mlp_norm: _Norm
    gate_up: Linear
    down: Linear
    query_norm: _Norm | None = None
    attention_gate: torch.Tensor | None = None
    mlp_gate: torch.Tensor | None = None


@dataclass(frozen=True)
class _Step:
    """What all layers of one forward have in common.

    Attributes:
        cosines, sines: [rows, 1, head_dim] of the rows' positions.
        self_attention: Maps a layer's index, queries [rows, heads, head_dim] and new keys and values [rows, kv_heads, head_dim]
            to attention [rows, heads * head_dim].
        cross_attention: Maps a layer's index and queries to attention; None if no row sees an image.
        sees_image: [rows, 1] of 0 and 1; None if all rows see an image.
    """

    cosines: torch.Tensor
    sines: torch.Tensor
    self_attention: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    cross_attention: Callable[[int, torch.Tensor], torch.Tensor] | None
    sees_image: torch.Tensor | None


class TextModel:
    """The text model of one checkpoint. Not thread-safe.

    Attributes:
        all_rows: A step computes a row for each slot, also for idle ones, because a row depends on the number of rows here.
    """

    def __init__(self, model: MllamaForConditionalGeneration, cache: SlotCache, slots: int, *, half: bool) -> None:
        """
        Args:
            model: Its linear layers are emptied, see linear.prepare.
            half: Keep the weights as float16 on a CPU, see linear.prepare.
        """
        text = model.model.language_model
        config: Any = model.config.text_config
        self._cache, self._slots = cache, slots
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = config.hidden_size // config.num_attention_heads
        self._tiles, self._patches = model.model.vision_model.max_num_tiles, model.model.vision_model.num_patches
        self._device, self._dtype = model.device, cache.dtype
        # The states between the layers, to which each layer adds. A conversion costs less on a CPU than it brings in accuracy.
        self._hidden_dtype = torch.float32 if model.device.type == "cpu" else cache.dtype
        self._embedding = text.embed_tokens
        self._rotations = self._rotation_table(text.rotary_emb, cache.length)
        self._layers = [self._layer(layer, half=half) for layer in text.layers]
        self._norm = self._hidden_norm(text.norm)
        self._output = prepare([model.lm_head], half=half, dtype=self._dtype)
        self.all_rows = False
        self.check_rows()

    @property
    def step_bytes(self) -> int:
        """Bytes of the linear layers' weights, which a decode step reads once."""
        layers = [part for layer in self._layers for part in (layer.project, layer.output, layer.gate_up, layer.down)]
        return sum(layer.bytes for layer in (*layers, self._output))

    @torch.inference_mode()
    def check_rows(self) -> None:
        """Sets all_rows: whether a slot's logits depend on the slots beside it. Call again with another number of threads.

        Kernels differ between CPUs and between kinds of weights, so this runs steps of up to MOST_CHECKED_ROWS slots and of all.
        """
        self.all_rows = self._device.type != "cpu"
        if self.all_rows or self._slots == 1:
            return
        for layer in self._cache.layers:
            for cached in (layer.keys, layer.values):
                read = cached if layer.cross else cached[:, :, :KEY_BUCKET]
                read[:] = torch.randn(read.shape[1:], generator=torch.Generator().manual_seed(0))
        tiles = torch.ones(self._slots, self._tiles, dtype=torch.bool)
        tiles[::2, 1:] = False  # every second row has a smaller image than its neighbours

        def rows(count: int) -> torch.Tensor:
            return self.logits(
                self.step(
                    range(count), [0] * count, [min(CHECKED_POSITION, self._cache.length - 1)] * count, [True] * count, tiles
                )
            )

        alone = rows(1)
        counts = {*range(2, min(self._slots, MOST_CHECKED_ROWS) + 1), self._slots}
        self.all_rows = not all(torch.equal(row, alone[0]) for count in counts for row in rows(count)[::2])

    # --- the two forwards -----------------------------------------------------------------------------------------------

    def read(self, slot: int, ids: Sequence[int], start: int, image_at: int | None, tile_mask: torch.Tensor) -> torch.Tensor:
        """Reads a piece of a prompt into a slot. Returns the hidden states [rows, hidden], a row for each token.

        Args:
            ids: The tokens of the piece.
            start: The position of the first token. The cache has the tokens before it.
            image_at: The position of the image token; None if no token of the piece sees an image.
            tile_mask: [tiles] bool, the tiles of the slot's image.
        """
        end = start + len(ids)
        positions = torch.arange(start, end, device=self._device)
        causal = torch.arange(end, device=self._device) <= positions[:, None]
        mask = self._additive(causal).repeat(self._heads // self._kv_heads, 1)  # the queries of a group, one after the other

        def self_attention(index: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            layer = self._cache.layers[index]
            layer.keys[slot, :, start:end] = keys.transpose(0, 1)
            layer.values[slot, :, start:end] = values.transpose(0, 1)
            return self._attend_piece(queries, layer.keys[slot, :, :end], layer.values[slot, :, :end], mask)

        def cross_attention(index: int, queries: torch.Tensor) -> torch.Tensor:
            layer, tokens = self._cache.layers[index], in_buckets(tiles * self._patches)
            return self._attend_piece(queries, layer.keys[slot, :, :tokens], layer.values[slot, :, :tokens], tile_keys)

        sees_image = tile_keys = None
        tiles = 0
        if image_at is not None:
            tiles = _used_tiles(tile_mask)
            tile_keys = self._tile_keys(tile_mask[None, :tiles])
            if image_at > start:
                sees_image = (positions >= image_at)[:, None].to(self._dtype)
        cosines, sines = self._rotations[:, positions].unsqueeze(2)
        step = _Step(cosines, sines, self_attention, None if image_at is None else cross_attention, sees_image)
        return self._forward(ids, step)

    def step(
        self,
        slots: Sequence[int],
        ids: Sequence[int],
        positions: Sequence[int],
        has_image: Sequence[bool],
        tile_masks: torch.Tensor,
    ) -> torch.Tensor:
        """Runs a decode step: feeds one token to each of the slots. Returns the hidden states [len(slots), hidden].

        Args:
            slots: In ascending order.
            ids, positions: The tokens, and where they stand in their sequences.
            has_image: Whether the sequences have an image.
            tile_masks: [all slots, tiles] bool.
        """
        if self.all_rows and len(slots) < self._slots:
            return self._step_of_all_slots(slots, ids, positions, has_image, tile_masks)
        first, last, group = slots[0], slots[-1] + 1, self._heads // self._kv_heads
        padding = -group % ALIGNED_QUERIES if torch.get_num_threads() > 1 else 0
        # Attention reads a range of the cache in place. Slots between the live ones are attended to for nothing.
        spread = None if last - first == len(slots) else torch.tensor([slot - first for slot in slots], device=self._device)
        rows = torch.tensor(slots, device=self._device)
        at = torch.tensor(positions, device=self._device)
        # Masked keys have a weight of exactly 0, so the number of keys changes the work and not the result.
        longest = max(position for position in positions if position < self._cache.length) + 1  # idle slots are at the spare one
        length = in_buckets(longest)
        mask = self._spread(self._additive(torch.arange(length, device=self._device) <= at[:, None]), spread, last - first)

        def self_attention(index: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            layer = self._cache.layers[index]
            layer.keys[rows, :, at] = keys
            layer.values[rows, :, at] = values
            return attend(queries, layer.keys[first:last, :, :length], layer.values[first:last, :, :length], mask)

        def cross_attention(index: int, queries: torch.Tensor) -> torch.Tensor:
            layer, tokens = self._cache.layers[index], in_buckets(tiles * self._patches)
            return attend(queries, layer.keys[first:last, :, :tokens], layer.values[first:last, :, :tokens], tile_keys)

        def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            grouped = functional.pad(queries.view(len(slots), self._kv_heads, group, -1), (0, 0, 0, padding))
            attention = functional.scaled_dot_product_attention(
                self._spread(grouped, spread, last - first), keys, values, mask[:, None, None]
            )
            return (attention if spread is None else attention[spread])[:, :, :group].reshape(len(slots), -1)

        sees_image = None
        tiles, tile_keys = 0, mask
        if any(has_image):
            live = tile_masks[rows]
            if not all(has_image):
                sees_image = torch.tensor(has_image, device=self._device)[:, None].to(self._dtype)
                live = live | (sees_image == 0)  # a softmax over no keys is undefined; the output is multiplied by 0
            tiles = max(_used_tiles(tile_masks[slot]) for slot, seen in zip(slots, has_image, strict=True) if seen)
            tile_keys = self._spread(self._tile_keys(live[:, :tiles]), spread, last - first)
        cosines, sines = self._rotations[:, at].unsqueeze(2)
        return self._forward(ids, _Step(cosines, sines, self_attention, cross_attention if any(has_image) else None, sees_image))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns the logits [rows, vocabulary], of the type and on the device of the caches, after states [rows, hidden]."""
        return self._output(self._norm(hidden))

    # --- the layers -----------------------------------------------------------------------------------------------------

    def _forward(self, ids: Sequence[int], step: _Step) -> torch.Tensor:
        hidden = self._embedding(torch.tensor(ids, device=self._device)).to(self._hidden_dtype)
        for index, layer in enumerate(self._layers):
            if layer.query_norm is not None:
                if step.cross_attention is not None:
                    hidden = self._cross_layer(index, layer, layer.query_norm, hidden, step)
                continue
            projected = layer.project(layer.attention_norm(hidden)).view(len(hidden), -1, self._head_dim)
            rotated = self._rotate(projected[:, : self._heads + self._kv_heads], step)
            keys, values = rotated[:, self._heads :], projected[:, self._heads + self._kv_heads :]
            attention = step.self_attention(index, rotated[:, : self._heads], keys, values)
            hidden = hidden + layer.output(attention)
            hidden = hidden + self._mlp(layer, hidden)
        return hidden

    def _cross_layer(self, index: int, layer: _Layer, query_norm: _Norm, hidden: torch.Tensor, step: _Step) -> torch.Tensor:
        assert step.cross_attention is not None and layer.attention_gate is not None and layer.mlp_gate is not None
        queries = layer.project(layer.attention_norm(hidden)).view(len(hidden), self._heads, self._head_dim)
        attention = layer.output(step.cross_attention(index, query_norm(queries)))
        # A token before the image gets nothing from the layer.
        seen = 1.0 if step.sees_image is None else step.sees_image
        hidden = hidden + attention * (layer.attention_gate * seen)
        return hidden + self._mlp(layer, hidden) * (layer.mlp_gate * seen)

    def _mlp(self, layer: _Layer, hidden: torch.Tensor) -> torch.Tensor:
        gate, up = layer.gate_up(layer.mlp_norm(hidden)).chunk(2, dim=-1)
        return layer.down(functional.silu(gate) * up)

    def _rotate(self, states: torch.Tensor, step: _Step) -> torch.Tensor:
        """Rotates [rows, heads, head_dim] to the rows' positions. The signs of the sines are those of the halves they meet."""
        return torch.addcmul(states * step.cosines, states.roll(self._head_dim // 2, dims=-1), step.sines)

    def _attend_piece(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Any) -> torch.Tensor:
        """Attends from a piece of a prompt to keys and values [kv_heads, n, head_dim]. Returns [rows, heads * head_dim].

        The query heads that share a key head follow one another as rows of one attention, so that no key is copied.
        """
        rows = len(queries)
        grouped = queries.view(rows, self._kv_heads, -1, self._head_dim).permute(1, 2, 0, 3)
        grouped = grouped.reshape(1, self._kv_heads, -1, self._head_dim)
        attention = functional.scaled_dot_product_attention(grouped, keys[None], values[None], mask)
        return attention.view(self._kv_heads, -1, rows, self._head_dim).permute(2, 0, 1, 3).reshape(rows, -1)

    # --- masks and rows -------------------------------------------------------------------------------------------------

    def _additive(self, seen: torch.Tensor) -> torch.Tensor:
        """Turns a mask of bool, True for the keys that are seen, into one to add to the scores."""
        return torch.zeros(seen.shape, dtype=self._dtype, device=self._device).masked_fill_(~seen, -torch.inf)

    def _tile_keys(self, tiles: torch.Tensor) -> torch.Tensor:
        """Returns the mask [rows, tiles * patches in buckets] for the keys of tiles [rows, tiles]."""
        mask = self._additive(tiles).repeat_interleave(self._patches, dim=1)
        return functional.pad(mask, (0, in_buckets(mask.shape[1]) - mask.shape[1]), value=-torch.inf)

    @staticmethod
    def _spread(rows: torch.Tensor, spread: torch.Tensor | None, count: int) -> torch.Tensor:
        """Puts rows [n, …] at the indices `spread` among `count` rows of zeros; None leaves them."""
        return rows if spread is None else rows.new_zeros(count, *rows.shape[1:]).index_copy_(0, spread, rows)

    def _step_of_all_slots(
        self,
        slots: Sequence[int],
        ids: Sequence[int],
        positions: Sequence[int],
        has_image: Sequence[bool],
        tile_masks: torch.Tensor,
    ) -> torch.Tensor:
        """Runs a step with a row for each slot. Idle slots write at the spare position of the cache."""
        idle = (0, self._cache.length, False)
        live = dict(zip(slots, zip(ids, positions, has_image, strict=True), strict=True))
        rows = [live.get(slot, idle) for slot in range(self._slots)]
        all_ids, all_positions, images = zip(*rows, strict=True)
        hidden = self.step(range(self._slots), all_ids, all_positions, images, tile_masks)
        return hidden[list(slots)]

    # --- weights --------------------------------------------------------------------------------------------------------

    def _layer(self, layer: Any, *, half: bool) -> _Layer:
        attention = layer.cross_attn if isinstance(layer, MllamaCrossAttentionDecoderLayer) else layer.self_attn
        cross = isinstance(layer, MllamaCrossAttentionDecoderLayer)
        inputs = [attention.q_proj] if cross else [attention.q_proj, attention.k_proj, attention.v_proj]
        return _Layer(
            attention_norm=self._hidden_norm(layer.input_layernorm),
            project=prepare(inputs, half=half, dtype=self._dtype),
            output=prepare([attention.o_proj], half=half, dtype=self._dtype),
            mlp_norm=self._hidden_norm(layer.post_attention_layernorm),
            gate_up=prepare([layer.mlp.gate_proj, layer.mlp.up_proj], half=half, dtype=self._dtype),
            down=prepare([layer.mlp.down_proj], half=half, dtype=self._dtype),
            query_norm=_norm(attention.q_norm, self._dtype, self._dtype) if cross else None,
            attention_gate=layer.cross_attn_attn_gate.detach().tanh().to(self._hidden_dtype) if cross else None,
            mlp_gate=layer.cross_attn_mlp_gate.detach().tanh().to(self._hidden_dtype) if cross else None,
        )

    def _hidden_norm(self, module: Any) -> _Norm:
        return _norm(module, self._hidden_dtype, self._dtype)

    def _rotation_table(self, rotary: nn.Module, length: int) -> torch.Tensor:
        """Returns the cosines and the signed sines [2, length + 1, head_dim] of all positions, with the spare one."""
        positions = torch.arange(length + 1, device=self._device)[None]
        cosines, sines = rotary(torch.zeros(1, dtype=torch.float32, device=self._device), positions)
        signs = torch.ones(self._head_dim, device=self._device)
        signs[: self._head_dim // 2] = -1
        return torch.stack((cosines[0], sines[0] * signs)).to(self._dtype)


def _norm(module: Any, dtype: torch.dtype, result: torch.dtype) -> _Norm:
    return _Norm(module.weight.detach().to(dtype), module.variance_epsilon, result)


def _used_tiles(tile_mask: torch.Tensor) -> int:
    """Returns the number of tiles up to the last used one."""
    return int(tile_mask.nonzero().max()) + 1
