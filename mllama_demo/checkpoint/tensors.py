"""Every tensor that a Llama 3.2 Vision checkpoint has, by its published name, with the shape that config.json implies.

Knows no weight file. The names are those of the checkpoints on the Hugging Face hub; transformers 4.52 and later write others
(newer_name).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mllama_demo.config.model_shape import LEARNABLE_TOKENS, ModelShape, read_shape
from mllama_demo.errors import CheckpointError

Shape = tuple[int, ...]
_Entries = Iterator[tuple[str, Shape]]
# Buffers that some tools store and that every program computes from config.json.
COMPUTED = (".rotary_emb.inv_freq",)


def expected_tensors(file: Path, config: Mapping[str, Any]) -> dict[str, Shape]:
    """The tensors by published name, in the order of the layers.

    The output layer is one of them also with tie_word_embeddings: it has 8 rows less than the embeddings, so that it cannot be
    tied to them.

    Args:
        file: config.json.
        config: its content.

    Raises:
        CheckpointError: config.json lacks a size.
    """
    shape = read_shape(file)
    return {**dict(_text(shape)), **dict(_vision(shape, file, config["vision_config"]))}


def newer_name(name: str) -> str:
    """The name that transformers 4.52 and later give to a tensor with a published name."""
    if name.startswith("language_model.model."):
        return "model.language_model." + name.removeprefix("language_model.model.")
    return "lm_head.weight" if name == "language_model.lm_head.weight" else "model." + name


def _text(m: ModelShape) -> _Entries:
    to = "language_model.model."
    yield to + "embed_tokens.weight", (m.vocab + LEARNABLE_TOKENS, m.hidden)
    rows, kv_rows = m.heads * m.head_dim, m.kv_heads * m.head_dim
    for layer in range(m.layers):
        cross = layer in m.cross_layers
        at = f"{to}layers.{layer}."
        attention = at + ("cross_attn." if cross else "self_attn.")
        yield attention + "q_proj.weight", (rows, m.hidden)
        yield attention + "k_proj.weight", (kv_rows, m.hidden)
        yield attention + "v_proj.weight", (kv_rows, m.hidden)
        yield attention + "o_proj.weight", (m.hidden, rows)
        if cross:
            yield attention + "q_norm.weight", (m.head_dim,)
            yield attention + "k_norm.weight", (m.head_dim,)
            yield at + "cross_attn_attn_gate", (1,)
            yield at + "cross_attn_mlp_gate", (1,)
        yield at + "mlp.gate_proj.weight", (m.ffn, m.hidden)
        yield at + "mlp.up_proj.weight", (m.ffn, m.hidden)
        yield at + "mlp.down_proj.weight", (m.hidden, m.ffn)
        yield at + "input_layernorm.weight", (m.hidden,)
        yield at + "post_attention_layernorm.weight", (m.hidden,)
    yield to + "norm.weight", (m.hidden,)
    yield "language_model.lm_head.weight", (m.vocab, m.hidden)


def _vision(m: ModelShape, file: Path, vision: Mapping[str, Any]) -> _Entries:
    to, width = "vision_model.", m.vision_hidden
    channels = _size(file, vision, "num_channels", 3)
    ratios = vision.get("supported_aspect_ratios")
    ids = (len(ratios) if isinstance(ratios, list) else m.ratios) + 1  # the id 0 is of no image
    yield to + "patch_embedding.weight", (width, channels, m.patch, m.patch)
    yield to + "class_embedding", (width,)
    position = to + "gated_positional_embedding."
    yield position + "embedding", (m.patches, width)
    yield position + "gate", (1,)
    yield position + "tile_embedding.weight", (ids, m.tiles * m.patches * width)
    for name in ("pre", "post"):
        yield f"{to}{name}_tile_positional_embedding.embedding.weight", (ids, m.tiles * width)
        yield f"{to}{name}_tile_positional_embedding.gate", (1,)
        for what in ("weight", "bias"):
            yield f"{to}layernorm_{name}.{what}", (width,)
    for stack, layers in (("transformer", m.vision_layers), ("global_transformer", m.vision_global_layers)):
        for number in range(layers):
            yield from _vision_layer(m, f"{to}{stack}.layers.{number}.")
            if stack == "global_transformer":
                yield f"{to}{stack}.layers.{number}.gate_attn", (1,)
                yield f"{to}{stack}.layers.{number}.gate_ffn", (1,)
    yield "multi_modal_projector.weight", (m.hidden, _size(file, vision, "vision_output_dim", (m.vision_features + 1) * width))
    yield "multi_modal_projector.bias", (m.hidden,)


def _vision_layer(m: ModelShape, at: str) -> _Entries:
    for which in "qkvo":
        yield f"{at}self_attn.{which}_proj.weight", (m.vision_hidden, m.vision_hidden)
    yield at + "mlp.fc1.weight", (m.vision_ffn, m.vision_hidden)
    yield at + "mlp.fc1.bias", (m.vision_ffn,)
    yield at + "mlp.fc2.weight", (m.vision_hidden, m.vision_ffn)
    yield at + "mlp.fc2.bias", (m.vision_hidden,)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        for what in ("weight", "bias"):
            yield f"{at}{norm}.{what}", (m.vision_hidden,)


def _size(file: Path, section: Mapping[str, Any], key: str, default: int) -> int:
    value = section.get(key, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{file} must give {key} as a whole number, but it is {value!r}; download it again.")
    return value
