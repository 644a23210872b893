"""How each tensor of the published Hugging Face layout is made from tensors of Meta's checkpoint: names, shapes, transforms.

Meta splits a tensor along the model-parallel dimension of its layer. A tensor of a layer that is not parallel is whole in every
shard. Source: github.com/meta-llama/llama-models, models/llama3/multimodal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mllama_demo.errors import CheckpointError

IGNORED = frozenset({"text_model.rope.freqs"})  # the model computes it from rope_theta
LEARNABLE_TOKENS = 8  # rows after the vocabulary, `<|image|>` first; Meta's learnable_embedding
Shape = tuple[int, ...]


@dataclass(frozen=True)
class VisionConstants:
    """Sizes that no file of Meta states: the defaults of VisionEncoder in models/llama3/multimodal/model.py."""

    heads: int = 16
    intermediate_layers: tuple[int, ...] = (3, 7, 15, 23, 30)
    channels: int = 3


@dataclass(frozen=True)
class MetaModel:
    """The sizes of a checkpoint in Meta's terms. layers: self-attention layers only. cross_layers: cross-attention layers."""

    dim: int
    layers: int
    cross_layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    norm_eps: float
    rope_theta: float
    rope_scaling_factor: float | None
    tiles: int
    tile_size: int
    patch: int
    vision_dim: int
    vision_ffn: int
    vision_layers: int
    global_layers: int
    vision: VisionConstants = VisionConstants()

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def patches(self) -> int:
        """Patches of one tile, and the class token."""
        return (self.tile_size // self.patch) ** 2 + 1

    @property
    def aspect_ratios(self) -> tuple[tuple[int, int], ...]:
        """(height, width) in tiles, in the order of their ids, which start at 1."""
        side = range(1, self.tiles + 1)
        return tuple((height, width) for height in side for width in side if height * width <= self.tiles)

    @property
    def self_positions(self) -> tuple[int, ...]:
        """The index of each self-attention layer among all layers."""
        return tuple(layer for layer in range(self.layers + self.cross_layers) if layer not in set(self.cross_positions))

    @property
    def cross_positions(self) -> tuple[int, ...]:
        """The index of each cross-attention layer among all layers.

        Meta puts one before every k-th self-attention layer, counted from the last, with k = ceil(layers / cross_layers).
        """
        step = math.ceil(self.layers / self.cross_layers)
        before = list(range(self.layers))[::-step][: self.cross_layers][::-1]
        return tuple(layer + number for number, layer in enumerate(before))


@dataclass(frozen=True)
class Output:
    """A tensor of the Hugging Face layout.

    Attributes:
        sources: Meta's tensors, concatenated along dimension 0.
        split: the dimension that the shards divide; None when every shard has the whole tensor.
        transform: the function that makes the tensor from the concatenated sources.
    """

    name: str
    shape: Shape
    sources: tuple[str, ...]
    split: int | None = None
    transform: Callable[[Any], Any] | None = None


def assemble(output: Output, shards: Sequence[Mapping[str, Any]]) -> Any:
    """Makes the tensor, contiguous. At most one more copy of it is in memory."""
    import torch

    parts = [shard[source] for source in output.sources for shard in (shards if output.split is not None else shards[:1])]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=output.split or 0)
    del parts
    transformed = whole if output.transform is None else output.transform(whole)
    return transformed.reshape(output.shape).contiguous()


def outputs(model: MetaModel) -> list[Output]:
    """Every tensor of the Hugging Face layout, in the order in which it is written."""
    return [*_text(model), *_vision(model)]


def _text(m: MetaModel) -> Iterator[Output]:
    language = "language_model.model."
    embeddings = ("text_model.tok_embeddings.weight", "text_model.learnable_embedding.weight")
    yield Output(language + "embed_tokens.weight", (m.vocab + LEARNABLE_TOKENS, m.dim), embeddings, 0)
    ordered = [(position, "layers", number) for number, position in enumerate(m.self_positions)]
    ordered += [(position, "cross_attention_layers", number) for number, position in enumerate(m.cross_positions)]
    q_rows, kv_rows = m.heads * m.head_dim, m.kv_heads * m.head_dim
    for position, stack, number in sorted(ordered):
        to, of, cross = f"{language}layers.{position}.", f"text_model.{stack}.{number}.", stack != "layers"
        attention = to + ("cross_attn." if cross else "self_attn.")
        # Rotary embeddings apply to q and k of self-attention only.
        q_transform, k_transform = (None, None) if cross else (_halves(m.heads), _halves(m.kv_heads))
        yield Output(attention + "q_proj.weight", (q_rows, m.dim), (of + "attention.wq.weight",), 0, q_transform)
        yield Output(attention + "k_proj.weight", (kv_rows, m.dim), (of + "attention.wk.weight",), 0, k_transform)
        yield Output(attention + "v_proj.weight", (kv_rows, m.dim), (of + "attention.wv.weight",), 0)
        yield Output(attention + "o_proj.weight", (m.dim, q_rows), (of + "attention.wo.weight",), 1)
        if cross:
            yield Output(attention + "q_norm.weight", (m.head_dim,), (of + "attention.q_norm.weight",))
            yield Output(attention + "k_norm.weight", (m.head_dim,), (of + "attention.k_norm.weight",))
            yield Output(to + "cross_attn_attn_gate", (1,), (of + "gate_attn",), transform=_first)
            yield Output(to + "cross_attn_mlp_gate", (1,), (of + "gate_ffwd",), transform=_first)
        yield Output(to + "mlp.gate_proj.weight", (m.ffn, m.dim), (of + "feed_forward.w1.weight",), 0)
        yield Output(to + "mlp.up_proj.weight", (m.ffn, m.dim), (of + "feed_forward.w3.weight",), 0)
        yield Output(to + "mlp.down_proj.weight", (m.dim, m.ffn), (of + "feed_forward.w2.weight",), 1)
        yield Output(to + "input_layernorm.weight", (m.dim,), (of + "attention_norm.weight",))
        yield Output(to + "post_attention_layernorm.weight", (m.dim,), (of + "ffn_norm.weight",))
    yield Output(language + "norm.weight", (m.dim,), ("text_model.norm.weight",))
    yield Output("language_model.lm_head.weight", (m.vocab, m.dim), ("text_model.output.weight",), 0)


def _vision(m: MetaModel) -> Iterator[Output]:
    to, of, width, ids = "vision_model.", "vision_model.vision_encoder.", m.vision_dim, len(m.aspect_ratios) + 1
    # A patch is unfolded as channel, row, column: the order of a convolution's kernel.
    kernel = (width, m.vision.channels, m.patch, m.patch)
    yield Output(to + "patch_embedding.weight", kernel, (of + "conv1._linear.weight",), 0)
    yield Output(to + "class_embedding", (width,), (of + "class_embedding",))
    position = to + "gated_positional_embedding."
    by_ratio = _by_aspect_ratio(m)
    yield Output(position + "embedding", (m.patches, width), (of + "positional_embedding",))
    yield Output(position + "gate", (1,), (of + "gated_positional_embedding_gate",), transform=_first)
    tile_shape = (ids, m.tiles * m.patches * width)
    yield Output(position + "tile_embedding.weight", tile_shape, (of + "gated_positional_embedding",), transform=by_ratio)
    for name in ("pre", "post"):
        tile, source = f"{to}{name}_tile_positional_embedding.", f"{of}{name}_tile_pos_embed."
        yield Output(tile + "embedding.weight", (ids, m.tiles * width), (source + "embedding",), transform=by_ratio)
        yield Output(tile + "gate", (1,), (source + "gate",), transform=_first)
        for what in ("weight", "bias"):
            yield Output(f"{to}layernorm_{name}.{what}", (width,), (f"{of}ln_{name}.{what}",))
    for stack, layers in (("transformer", m.vision_layers), ("global_transformer", m.global_layers)):
        for number in range(layers):
            yield from _vision_layer(m, f"{to}{stack}.layers.{number}.", f"{of}{stack}.resblocks.{number}.")
            if stack == "global_transformer":
                for gate in ("gate_attn", "gate_ffn"):
                    source = f"{of}{stack}.resblocks.{number}.{gate}"
                    yield Output(f"{to}{stack}.layers.{number}.{gate}", (1,), (source,), transform=_first)
    entering = (len(m.vision.intermediate_layers) + 1) * width
    projection = "vision_model.vision_projection."
    yield Output("multi_modal_projector.weight", (m.dim, entering), (projection + "weight",), 0)
    yield Output("multi_modal_projector.bias", (m.dim,), (projection + "bias",), 0)


def _vision_layer(m: MetaModel, to: str, of: str) -> Iterator[Output]:
    square = (m.vision_dim, m.vision_dim)
    for which in "qkvo":
        yield Output(f"{to}self_attn.{which}_proj.weight", square, (f"{of}attn.w{which}.weight",), 1 if which == "o" else 0)
    yield Output(to + "mlp.fc1.weight", (m.vision_ffn, m.vision_dim), (of + "mlp.c_fc.weight",), 0)
    yield Output(to + "mlp.fc1.bias", (m.vision_ffn,), (of + "mlp.c_fc.bias",), 0)
    yield Output(to + "mlp.fc2.weight", (m.vision_dim, m.vision_ffn), (of + "mlp.c_proj.weight",), 1)
    yield Output(to + "mlp.fc2.bias", (m.vision_dim,), (of + "mlp.c_proj.bias",))
    for norm, source in (("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2")):
        for what in ("weight", "bias"):
            yield Output(f"{to}{norm}.{what}", (m.vision_dim,), (f"{of}{source}.{what}",))


# --- transforms ---------------------------------------------------------------------------------------------


def _halves(heads: int) -> Callable[[Any], Any]:
    """Reorders rotary pairs: rows (0, 1), (2, 3), … of a head in Meta's layout are rows (0, d/2), (1, d/2 + 1), … here."""

    def transform(weight: Any) -> Any:
        return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)

    return transform


def _first(gate: Any) -> Any:
    """A gate is one number. Some of Meta's releases repeat it."""
    return gate.reshape(-1)[:1]


def _by_aspect_ratio(m: MetaModel) -> Callable[[Any], Any]:
    """[rows, columns, …] of tiles to [aspect ratio id, all tiles × …]: the tiles of each ratio row by row, then zeros."""

    def transform(grid: Any) -> Any:
        table = grid.new_zeros((len(m.aspect_ratios) + 1, m.tiles, *grid.shape[2:]))
        for number, (height, width) in enumerate(m.aspect_ratios, 1):
            table[number, : height * width] = grid[:height, :width].flatten(0, 1)
        return table

    return transform


# --- the sizes of a checkpoint ----------------------------------------------------------------------------------


def meta_model(params: Mapping[str, Any], shapes: Mapping[str, Shape], shards: int, vision: VisionConstants) -> MetaModel:
    """The sizes, from params.json and from the shapes in one shard. Raises CheckpointError when they do not fit together."""
    if not any(name.startswith("vision_model.") for name in shapes) or "vision_num_cross_attention_layers" not in params:
        raise CheckpointError("This is a text-only checkpoint, without vision_model tensors; convert a Llama 3.2 Vision one.")

    def number(key: str) -> int:
        value = params.get(key)
        if type(value) is not int or value < 1:
            raise CheckpointError(f"params.json must give {key} as a whole number, but it is {value!r}; download it again.")
        return value

    def real(key: str) -> float:
        value = params.get(key)
        if type(value) not in (int, float):
            raise CheckpointError(f"params.json must give {key} as a number, but it is {value!r}; download it again.")
        return float(value)  # pyright: ignore[reportArgumentType] - checked above

    def shape(name: str) -> Shape:
        if name not in shapes:
            raise CheckpointError(f"The checkpoint lacks the tensor {name}; download the whole checkpoint again.")
        return shapes[name]

    def count(pattern: str) -> int:
        return len({found[1] for name in shapes if (found := re.match(pattern + r"\.(\d+)\.", name))})

    encoder = "vision_model.vision_encoder."
    model = MetaModel(
        dim=number("dim"),
        layers=number("n_layers"),
        cross_layers=number("vision_num_cross_attention_layers"),
        heads=number("n_heads"),
        kv_heads=number("n_kv_heads"),
        ffn=shape("text_model.layers.0.feed_forward.w1.weight")[0] * shards,
        vocab=number("vocab_size"),
        norm_eps=real("norm_eps"),
        rope_theta=real("rope_theta"),
        rope_scaling_factor=float(params.get("rope_scaling_factor") or 8) if params.get("use_scaled_rope") else None,
        tiles=number("vision_max_num_chunks"),
        tile_size=number("vision_chunk_size"),
        patch=math.isqrt(shape(encoder + "conv1._linear.weight")[1] // vision.channels),
        vision_dim=shape(encoder + "class_embedding")[0],
        vision_ffn=shape(encoder + "transformer.resblocks.0.mlp.c_fc.weight")[0] * shards,
        vision_layers=count(re.escape(encoder) + r"transformer\.resblocks"),
        global_layers=count(re.escape(encoder) + r"global_transformer\.resblocks"),
        vision=vision,
    )
    if model.dim % model.heads or model.heads % model.kv_heads or model.kv_heads % shards or model.heads % shards:
        raise CheckpointError(
            f"params.json gives {model.heads} heads and {model.kv_heads} key-value heads, which {shards} shards cannot share "
            f"evenly; the checkpoint needs all of its files."
        )
    if len(model.cross_positions) != model.cross_layers:
        raise CheckpointError(
            f"{model.cross_layers} cross-attention layers cannot be spread evenly over {model.layers} layers; "
            "Llama 3.2 Vision has 8 over 32 or 20 over 80."
        )
    return model


def check_tensors(model: MetaModel, shapes: Mapping[str, Shape], shards: int) -> None:
    """Raises CheckpointError for the first tensor that is missing, has another shape or is unknown."""
    used = set()
    for output in outputs(model):
        numbers = 0
        for source in output.sources:
            if source not in shapes:
                raise CheckpointError(f"The checkpoint lacks the tensor {source}; download the whole checkpoint again.")
            numbers += math.prod(shapes[source]) * (shards if output.split is not None else 1)
            used.add(source)
        if not _fits(output, numbers, shapes[output.sources[0]], shards, model):
            raise CheckpointError(
                f"The tensor {output.sources[0]} has the shape {list(shapes[output.sources[0]])} in {_shards(shards)}, which "
                f"does not make {output.name} of {list(output.shape)}; params.json and the weights are not of one checkpoint."
            )
    for name in shapes:
        if name not in used and name not in IGNORED:
            raise CheckpointError(
                f"The checkpoint has a tensor {name} that no Llama 3.2 Vision model has; it cannot be converted."
            )


def _fits(output: Output, numbers: int, source: Shape, shards: int, model: MetaModel) -> bool:
    if output.transform is _first:
        return numbers >= 1
    if output.name.endswith(("tile_embedding.weight", "tile_positional_embedding.embedding.weight")):
        tail = (model.patches if "gated" in output.name else 1, model.vision_dim)
        return source == (model.tiles, model.tiles, *tail)
    whole = list(source)
    if output.split is not None and len(output.sources) == 1:
        whole[output.split] *= shards
    if len(output.sources) > 1 or len(output.shape) > 2:
        return numbers == math.prod(output.shape)
    return tuple(whole) == output.shape


def _shards(count: int) -> str:
    return "one shard" if count == 1 else f"each of {count} shards"
