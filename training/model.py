"""The model: a small MllamaForConditionalGeneration of transformers, with Meta's order of vision features, and its losses.

The cross-attention layers are at the indices that NxDI requires. All head counts are even, for tensor parallel 2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, MllamaConfig, MllamaForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

from mllama_demo.engine.torch.meta_mllama import restore_meta_computation
from training.labels import HEADS, IGNORE
from training.listening import LOOKUPS
from training.plan import Size

TILE, PATCH, MAX_TILES = 84, 14, 4
PATCHES = (TILE // PATCH) ** 2 + 1  # vision tokens of a tile, the class token included
ASPECT_RATIOS = [
    [1, 1],
    [1, 2],
    [1, 3],
    [1, 4],
    [2, 1],
    [2, 2],
    [3, 1],
    [4, 1],
]  # [rows, columns], in the order of the image processor; id 0 is padding
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


def _attention_in_float32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> Any:
    """transformers' attention, computed in float32 also where matrices are multiplied in bfloat16.

    PyTorch 2.13's backward pass of attention in bfloat16 takes 2.6 times as long on a CPU as the one in float32 (measured).
    """
    kind = query.dtype
    mask = mask.float() if mask is not None and mask.is_floating_point() else mask
    with torch.autocast(query.device.type, enabled=False):
        output, weights = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)
    return output.to(kind), weights


FLOAT32_ATTENTION = "sdpa_in_float32"
AttentionInterface.register(FLOAT32_ATTENTION, _attention_in_float32)
AttentionMaskInterface.register(FLOAT32_ATTENTION, sdpa_mask)


def cross_attention_layers(self_layers: int, cross_layers: int) -> list[int]:
    """The layer indices at which NxDI expects cross-attention: one such layer in each group of self / cross + 1 layers.

    Raises:
        ValueError: self_layers is no multiple of cross_layers.
    """
    if self_layers % cross_layers:
        raise ValueError(f"{self_layers} self-attention layers are no multiple of {cross_layers} cross-attention layers")
    every = self_layers // cross_layers
    return list(range(every - 1, self_layers + cross_layers, every + 1))


def make_config(size: Size, vocab_size: int, bos: int, eos: int, pad: int) -> MllamaConfig:
    """The configuration of the model.

    Args:
        vocab_size: Number of tokens without the image token; also the id of the image token.
    """
    text = MllamaTextConfig(
        vocab_size=vocab_size,
        hidden_size=size.text_width,
        num_hidden_layers=size.self_layers + size.cross_layers,
        num_attention_heads=size.text_heads,
        num_key_value_heads=size.text_kv_heads,
        intermediate_size=size.text_mlp,
        rms_norm_eps=1e-5,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        cross_attention_layers=cross_attention_layers(size.self_layers, size.cross_layers),
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    vision = MllamaVisionConfig(
        hidden_size=size.vision_width,
        num_hidden_layers=size.local_layers,
        num_global_layers=size.global_layers,
        attention_heads=size.vision_heads,
        intermediate_size=4 * size.vision_width,
        image_size=TILE,
        patch_size=PATCH,
        intermediate_layers_indices=list(size.intermediate),
        vision_output_dim=size.vision_width * (1 + len(size.intermediate)),
        max_num_tiles=MAX_TILES,
    )
    return MllamaConfig(vision_config=vision, text_config=text, image_token_index=vocab_size)


class Student(nn.Module):
    """The model with extra heads for patch labels (labels.py) and lookups (listening.py). Only the model is exported."""

    def __init__(self, config: MllamaConfig, attention: str = "sdpa") -> None:
        super().__init__()
        self.model = MllamaForConditionalGeneration._from_config(config, attn_implementation=attention)
        self.cross_rows = restore_meta_computation(self.model)
        text: Any = config.text_config  # transformers also declares it as a dict
        width = text.hidden_size
        self.heads = nn.Linear(width, sum(HEADS.values()))
        crossing = text.cross_attention_layers
        self.lookup_heads = nn.ModuleList(nn.Linear(width, sum(LOOKUPS.values())) for _ in crossing)
        self._looked: list[Tensor] = []  # outputs of the cross-attention layers in the last talk_loss
        for index in crossing:
            self.model.model.language_model.layers[index].register_forward_hook(self._keep)
        self._open_gates()

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._looked.append(output[0] if isinstance(output, tuple) else output)

    def _open_gates(self) -> None:
        """Sets the gates above zero. transformers starts them at zero, and then vision hardly learns."""
        with torch.no_grad():
            vision: Any = self.model.model.vision_model
            layers: Any = self.model.model.language_model.layers
            for layer in vision.global_transformer.layers:
                layer.gate_attn.fill_(math.pi / 4)
                layer.gate_ffn.fill_(math.pi / 4)
            for part in (
                vision.gated_positional_embedding,
                vision.pre_tile_positional_embedding,
                vision.post_tile_positional_embedding,
            ):
                part.gate.fill_(0.5)
            for layer in layers:
                if hasattr(layer, "cross_attn_attn_gate"):
                    layer.cross_attn_attn_gate.fill_(1.0)
                    layer.cross_attn_mlp_gate.fill_(0.5)

    def see(self, tiles: Tensor, ratio: Tensor, filled: Tensor) -> Tensor:
        """Encodes pictures.

        Args:
            tiles: uint8 [batch, tiles, 3, 84, 84].
            ratio: Aspect ratio ids, [batch].
            filled: Which tiles hold a part of the picture, bool [batch, tiles].

        Returns:
            The cross-attention states, [batch, tiles * PATCHES, text width].
        """
        mean, std = (torch.tensor(v, device=tiles.device).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
        pixels = (tiles.float() / 255 - mean) / std * filled[:, :, None, None, None]
        states = self.model.model.vision_model(
            pixel_values=pixels[:, None], aspect_ratio_ids=ratio[:, None], aspect_ratio_mask=filled[:, None].long()
        ).last_hidden_state
        return self.model.model.multi_modal_projector(states).reshape(len(tiles), -1, self.heads.in_features)

    def patch_loss(self, states: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the patch labels.

        Args:
            states: What `see` returned.
            labels: int16 [batch, heads, tiles, patches without the class token].

        Returns:
            The loss, and the accuracy of each head. The accuracy of "kind" leaves out background patches.
        """
        patches = states.reshape(len(states), MAX_TILES, PATCHES, -1)[:, :, 1:]
        logits = self.heads(patches).split(list(HEADS.values()), dim=-1)
        total, right = states.new_zeros(()), {}
        for index, (name, weight) in enumerate(_HEAD_WEIGHTS.items()):
            wanted = labels[:, index].long().flatten()
            kept = wanted != IGNORE
            if not kept.any():
                continue
            wanted, guess = wanted[kept], logits[index].flatten(0, 2)[kept]
            each = F.cross_entropy(guess, wanted, reduction="none")
            # Most patches show background. Their smaller weight lets the other classes be learned.
            importance = torch.where(wanted == 0, 0.15, 1.0) if name == "kind" else torch.ones_like(each)
            total = total + weight * (each * importance).sum() / importance.sum()
            shown = wanted > 0 if name == "kind" else torch.ones_like(wanted, dtype=torch.bool)
            if shown.any():
                right[name] = (guess.detach().argmax(-1) == wanted)[shown].float().mean().item()
        return total, right

    def talk_loss(
        self,
        ids: Tensor,
        labels: Tensor,
        positions: Tensor | None = None,
        image_at: Tensor | None = None,
        states: Tensor | None = None,
        filled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy of the answer tokens.

        Args:
            ids: Token ids, [batch, length].
            labels: Token ids to learn, [batch, length]; IGNORE except on answers.
            positions: Position ids, [batch, length], rising along each row; None for 0, 1, 2, ….
            image_at: Index of each row's image token, [batch]. None in a batch without pictures, as states and filled.
            states: What `see` returned for each row's picture.
            filled: Which tiles hold a part of the picture, bool [batch, tiles].
            weights: Loss weight of each token of the vocabulary, [vocabulary]; None for equal weights.
        """
        extra: dict[str, Tensor] = {}
        self.cross_rows.mask = None
        self._looked.clear()
        if states is not None:
            assert image_at is not None
            assert filled is not None
            sees = torch.arange(ids.shape[1], device=ids.device)[None] >= image_at[:, None]
            rows = sees[:, None, :, None].to(states.dtype)
            keys = filled.repeat_interleave(PATCHES, dim=1)[:, None, None]
            self.cross_rows.mask = rows[:, 0]
            extra = {
                "cross_attention_states": states,
                "cross_attention_mask": keys
                | ~sees[:, None, :, None],  # tokens before the image attend to all; the row mask clears the result
                "full_text_row_masked_out_mask": rows,
            }
        if positions is not None:  # without this mask transformers takes a gap for the start of another sequence
            causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
            extra |= {"position_ids": positions, "attention_mask": causal[None, None].expand(len(ids), 1, -1, -1)}
        hidden = self.model.model.language_model(input_ids=ids, use_cache=False, **extra).last_hidden_state
        wanted = labels[:, 1:]
        kept = wanted != IGNORE
        logits = self.model.lm_head(hidden[:, :-1][kept]).float()
        return F.cross_entropy(logits, wanted[kept], weight=weights)

    def lookup_loss(self, lookups: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Mean loss of the lookups over the cross-attention layers. Uses the layer outputs of the talk_loss called just before.

        Args:
            lookups: int16 [batch, length, LOOKUPS].

        Returns:
            The loss, and the accuracy of each lookup after the last cross-attention layer.
        """
        at = (lookups != IGNORE).any(-1)
        wanted = lookups[at].long()
        # A batch without mentions still needs a gradient for each head, because all processes average the same gradients.
        heads: list[Any] = list(self.lookup_heads)
        total = torch.stack([0.0 * (head.weight.sum() + head.bias.sum()) for head in heads]).sum()
        right: dict[str, float] = {}
        for head, hidden in zip(self.lookup_heads, self._looked, strict=True):
            logits = head(F.rms_norm(hidden[at], hidden.shape[-1:])).split(list(LOOKUPS.values()), dim=-1)
            for index, (name, weight) in enumerate(_LOOKUP_WEIGHTS.items()):
                kept = wanted[:, index] != IGNORE
                if kept.any():
                    total = total + weight * F.cross_entropy(logits[index][kept], wanted[kept, index])
                    guess = logits[index][kept].detach().argmax(-1)
                    right[f"look_up_{name}"] = (guess == wanted[kept, index]).float().mean().item()
        self._looked.clear()
        return total / len(self.lookup_heads), right


_LOOKUP_WEIGHTS = {
    "there": 1.0,
    "count": 1.0,
    "region": 0.5,
    "colour": 0.5,
    "column": 0.25,
    "row": 0.25,
    "across": 0.5,
    "down": 0.5,
    "who": 1.0,
}
_HEAD_WEIGHTS = {"kind": 1.0, "surface": 0.4, "region": 0.3, "count": 0.4, "character": 1.0, "place": 0.5}
_HEAD_WEIGHTS |= {"line": 0.5, "hour": 1.0, "quarter": 1.0}


def whiten_patches(student: Student, patches: Tensor) -> None:
    """Initialises the patch embedding with a PCA whitening of patches [n, 3 * 14 * 14]. This makes early training faster."""
    embedding = student.model.model.vision_model.patch_embedding
    centred = patches - patches.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    width = embedding.weight.shape[0]
    values, vectors = values.flip(0)[:width], vectors.flip(1)[:, :width]
    with torch.no_grad():
        embedding.weight.copy_(0.5 * (vectors / (values + 0.1).sqrt()).T.reshape(embedding.weight.shape))
