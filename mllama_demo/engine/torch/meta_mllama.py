"""Meta's computation of Llama 3.2 Vision on top of transformers' MllamaForConditionalGeneration.

transformers 4.57 to 5.23 differ from Meta's reference in two points, which change the answers of a checkpoint:

- The intermediate vision features must be the input of the layers in `intermediate_layers_indices`. transformers takes their
  output.
- Text tokens before the image must get nothing from cross-attention. transformers masks only their feed-forward output.

NxDI and vLLM compute as Meta does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mllama.modeling_mllama import (
    MllamaCrossAttentionDecoderLayer,
    MllamaForConditionalGeneration,
    MllamaVisionEncoder,
)


class MetaVisionEncoder(MllamaVisionEncoder):
    """Returns the input of layer i as hidden_states[i], and the output of the last layer as the last entry."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> BaseModelOutput:
        states = [hidden_states]
        for layer in self.layers:
            out = layer(hidden_states, attention_mask=attention_mask)
            hidden_states = out[0] if isinstance(out, tuple) else out
            states.append(hidden_states)
        # transformers annotates the fields as the legacy FloatTensor, which torch.Tensor does not match.
        return BaseModelOutput(last_hidden_state=hidden_states, hidden_states=tuple(states))  # type: ignore[arg-type]


class CrossAttentionOutputMask:
    """Multiplies the output of cross-attention by a mask over the text tokens.

    Attributes:
        mask: [batch, length, 1] of 0 and 1. The caller sets it before each forward. None changes nothing.
    """

    def __init__(self, model: MllamaForConditionalGeneration) -> None:
        self.mask: torch.Tensor | None = None
        for layer in model.model.language_model.layers:
            if isinstance(layer, MllamaCrossAttentionDecoderLayer):
                layer.cross_attn.register_forward_hook(self._apply)

    def _apply(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self.mask is None:
            return None
        return (output[0] * self.mask, *output[1:])


def restore_meta_computation(model: MllamaForConditionalGeneration) -> CrossAttentionOutputMask:
    """Changes the model in place to Meta's computation. Returns the cross-attention mask to set before each forward."""
    for encoder in (model.model.vision_model.transformer, model.model.vision_model.global_transformer):
        encoder.__class__ = MetaVisionEncoder
    return CrossAttentionOutputMask(model)
