"""Meta's computation of Llama 3.2 Vision on top of transformers' MllamaForConditionalGeneration.

transformers 4.57 to 5.23 differ from Meta's reference in two points, which change the answers of a checkpoint:

- The intermediate vision features must be the input of the layers in `intermediate_layers_indices`. transformers takes their
  output.
- Text tokens before the image must get nothing from cross-attention. transformers masks only their feed-forward output.

NxDI and vLLM compute as Meta does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mllama.modeling_mllama import (
    MllamaCrossAttentionDecoderLayer,
    MllamaForConditionalGeneration,
    MllamaTextCrossAttention,
    MllamaVisionEncoder,
)


class MetaVisionEncoder(MllamaVisionEncoder):
    """Returns the input of layer i as hidden_states[i] for each i in `kept`; the other entries are None.

    Attributes:
        kept: Indices of layers. The states of all layers would take 1.1 GB for one image in the 11B model.
    """

    kept: Sequence[int]

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> BaseModelOutput:
        states: list[torch.Tensor | None] = []
        for index, layer in enumerate(self.layers):
            states.append(hidden_states if index in self.kept else None)
            out = layer(hidden_states, attention_mask=attention_mask)
            hidden_states = out[0] if isinstance(out, tuple) else out
        # transformers annotates the fields as tuples of the legacy FloatTensor, which these values do not match.
        return BaseModelOutput(last_hidden_state=hidden_states, hidden_states=tuple(states))  # type: ignore[arg-type]


class CrossAttentionOutputMask:
    """Multiplies the output of cross-attention by a mask over the text tokens.

    Attributes:
        mask: [batch, length, 1] of 0 and 1. The caller sets it before each forward. None changes nothing.
    """

    def __init__(self, model: MllamaForConditionalGeneration) -> None:
        self.mask: torch.Tensor | None = None
        for attention in cross_attention_layers(model).values():
            attention.register_forward_hook(self._apply)

    def _apply(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self.mask is None:
            return None
        return (output[0] * self.mask, *output[1:])


def restore_meta_computation(model: MllamaForConditionalGeneration) -> CrossAttentionOutputMask:
    """Changes the model in place to Meta's computation. Returns the cross-attention mask to set before each forward."""
    vision = model.model.vision_model
    for encoder, kept in ((vision.transformer, vision.intermediate_layers_indices), (vision.global_transformer, ())):
        encoder.__class__ = MetaVisionEncoder
        cast("MetaVisionEncoder", encoder).kept = tuple(kept or ())
    return CrossAttentionOutputMask(model)


def cross_attention_layers(model: MllamaForConditionalGeneration) -> dict[int, MllamaTextCrossAttention]:
    """Returns the cross-attention of each text layer that has one, by the index of the layer."""
    layers = enumerate(model.model.language_model.layers)
    return {index: layer.cross_attn for index, layer in layers if isinstance(layer, MllamaCrossAttentionDecoderLayer)}


def image_keys_values(attention: MllamaTextCrossAttention, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the keys and values [kv_heads, tiles * patches, head_dim] of an image, as the layer's own forward computes them.

    Args:
        states: The image's features [tiles, patches, hidden].
    """
    shape = (-1, attention.num_key_value_heads, attention.head_dim)
    keys, values = attention.k_proj(states).view(shape), attention.v_proj(states).view(shape)
    return attention.k_norm(keys.transpose(0, 1)), values.transpose(0, 1)
