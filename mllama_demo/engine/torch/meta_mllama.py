"""Meta's computation of Llama 3.2 Vision on top of transformers' MllamaForConditionalGeneration.

transformers 4.57 to 5.23 differ from Meta's reference in two points, and a checkpoint answers differently for it:
the intermediate vision features must be the INPUT of the layers in `intermediate_layers_indices` (transformers collects
their output), and text rows before the image must get nothing from cross-attention (transformers silences the
feed-forward part of those rows only). NxDI and vLLM compute as Meta does.
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
    """The same layers, but hidden_states[i] is what goes into layer i; the last entry is what leaves the last layer."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> BaseModelOutput:
        states = [hidden_states]
        for layer in self.layers:
            out = layer(hidden_states, attention_mask=attention_mask)
            hidden_states = out[0] if isinstance(out, tuple) else out
            states.append(hidden_states)
        # transformers says FloatTensor, an old name that no tensor of today has.
        return BaseModelOutput(last_hidden_state=hidden_states, hidden_states=tuple(states))  # type: ignore[arg-type]


class CrossAttentionRows:
    """Silences cross-attention for chosen text rows.

    mask: [batch, length, 1] of 0 and 1, set before each forward; None lets every row through.
    """

    def __init__(self, model: MllamaForConditionalGeneration) -> None:
        self.mask: torch.Tensor | None = None
        for layer in model.model.language_model.layers:
            if isinstance(layer, MllamaCrossAttentionDecoderLayer):
                layer.cross_attn.register_forward_hook(self._silence)

    def _silence(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self.mask is None:
            return None
        return (output[0] * self.mask, *output[1:])


def restore_meta_computation(model: MllamaForConditionalGeneration) -> CrossAttentionRows:
    """Changes the model in place to Meta's order of vision features; the result silences rows in each forward."""
    for encoder in (model.model.vision_model.transformer, model.model.vision_model.global_transformer):
        encoder.__class__ = MetaVisionEncoder
    return CrossAttentionRows(model)
