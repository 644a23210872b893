# pyright: reportArgumentType=false
"""Llama 3.2 Vision by hand, as Meta computes it: one sequence, everything recomputed for every token, no cache, no batch.

Written from Meta's models/llama3/multimodal (github.com/meta-llama/llama-models) over a checkpoint in the published Hugging
Face layout, in float32. Uses nothing of this project and none of transformers' models, only their image processor, so that
both can be measured against it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from tests.support.image_processor import MllamaImageProcessorPil


@dataclass(frozen=True)
class Vision:
    """What cross-attention sees of an image. states: [tiles * patches, hidden]; real: [tiles * patches] False for padding."""

    states: Tensor
    real: Tensor


class MetaReference:
    """features_of_output: collect what leaves the intermediate vision layers instead of what enters them.
    early_rows_attend: let text rows before the image attend to all of it. Both switched on is transformers 4.57 to 5.23."""

    def __init__(self, path: Path, *, features_of_output: bool = False, early_rows_attend: bool = False) -> None:
        config = json.loads((path / "config.json").read_text())
        self.text, self.eyes = config["text_config"], config["vision_config"]
        assert self.text["rope_scaling"]["rope_type"] == "default", "other rotary scalings are not written down here"
        self.image_token = config["image_token_index"]
        self.weights = {name: weight.float() for name, weight in load_file(path / "model.safetensors").items()}
        self.processor = MllamaImageProcessorPil.from_pretrained(path)
        self.features_of_output, self.early_rows_attend = features_of_output, early_rows_attend

    # --- vision ---------------------------------------------------------------------------------------------------------

    def see(self, image: Image.Image) -> Vision:
        """Meta's VisionEncoder and projection of one RGB image."""
        made = self.processor(images=[[image]], return_tensors="pt")
        pixels, ratio = made["pixel_values"][0, 0], int(made["aspect_ratio_ids"][0, 0])
        real_tiles = made["aspect_ratio_mask"][0, 0].bool()
        w, tiles, width = "vision_model.", pixels.shape[0], self.eyes["hidden_size"]

        x = F.conv2d(pixels, self.weights[w + "patch_embedding.weight"], stride=self.eyes["patch_size"])
        x = x.flatten(2).transpose(1, 2)
        x = x + self._tile_embedding(w + "pre_tile_positional_embedding", ratio, tiles)
        x = torch.cat([self.weights[w + "class_embedding"].expand(tiles, 1, width), x], dim=1)
        patches = x.shape[1]
        position = w + "gated_positional_embedding."
        gate = self.weights[position + "gate"].tanh()
        by_tile = self.weights[position + "tile_embedding.weight"][ratio].reshape(tiles, patches, width)
        x = x + (1 - gate) * self.weights[position + "embedding"] + gate * by_tile
        x = self._layer_norm(x, w + "layernorm_pre", 1e-5)

        # Padded to a multiple of 8. Padding is hidden from padding alone; real patches do attend to it, in Meta's code too.
        x = F.pad(x, (0, 0, 0, -patches % 8))
        padded = x.shape[1]
        padding = ~(real_tiles[:, None] & (torch.arange(padded) < patches)).flatten()
        allowed = ~(padding[:, None] & padding[None])
        x = x.flatten(0, 1)
        features = []
        for index in range(self.eyes["num_hidden_layers"]):
            entering, x = x, self._vision_layer(x, f"{w}transformer.layers.{index}.", allowed)
            if index in self.eyes["intermediate_layers_indices"]:
                features.append(x if self.features_of_output else entering)
        x = self._layer_norm(x, w + "layernorm_post", 1e-5).reshape(tiles, padded, width)
        x = (x + self._tile_embedding(w + "post_tile_positional_embedding", ratio, tiles)).flatten(0, 1)
        for index in range(self.eyes["num_global_layers"]):
            x = self._vision_layer(x, f"{w}global_transformer.layers.{index}.", allowed, gated=True)

        x = torch.cat([x, torch.stack(features, dim=-1).flatten(-2)], dim=-1).reshape(tiles, padded, -1)[:, :patches]
        projection, bias = (self.weights["multi_modal_projector." + which] for which in ("weight", "bias"))
        states = F.linear(x.flatten(0, 1), projection, bias)
        return Vision(states, real_tiles.repeat_interleave(patches))

    def _tile_embedding(self, name: str, ratio: int, tiles: int) -> Tensor:
        return self.weights[name + ".embedding.weight"][ratio].reshape(tiles, 1, -1) * self.weights[name + ".gate"].tanh()

    def _layer_norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[name + ".weight"], self.weights[name + ".bias"], eps)

    def _vision_layer(self, x: Tensor, name: str, allowed: Tensor, gated: bool = False) -> Tensor:
        attention_gate = self.weights[name + "gate_attn"].tanh() if gated else 1.0
        mlp_gate = self.weights[name + "gate_ffn"].tanh() if gated else 1.0
        heads = self.eyes["attention_heads"]
        h = self._layer_norm(x, name + "input_layernorm", self.eyes["norm_eps"])
        q, k, v = (self._heads(h, f"{name}self_attn.{which}_proj", heads) for which in "qkv")
        x = x + attention_gate * self._attend(q, k, v, allowed, name + "self_attn.o_proj")
        h = self._layer_norm(x, name + "post_attention_layernorm", self.eyes["norm_eps"])
        h = F.gelu(F.linear(h, self.weights[name + "mlp.fc1.weight"], self.weights[name + "mlp.fc1.bias"]))
        return x + mlp_gate * F.linear(h, self.weights[name + "mlp.fc2.weight"], self.weights[name + "mlp.fc2.bias"])

    # --- text -----------------------------------------------------------------------------------------------------------

    def logits(self, ids: Sequence[int], vision: Vision | None = None) -> Tensor:
        """[length, vocabulary] for the whole sequence. Without an image the cross-attention layers are left out."""
        w = "language_model.model."
        x = self.weights[w + "embed_tokens.weight"][torch.tensor(ids)]
        length = len(ids)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        sees_image = torch.zeros(length, 1, dtype=torch.bool)
        if vision is not None:
            sees_image[list(ids).index(self.image_token) :] = True
        for index in range(self.text["num_hidden_layers"]):
            name = f"{w}layers.{index}."
            if index not in self.text["cross_attention_layers"]:
                x = self._self_layer(x, name, causal)
            elif vision is not None:
                x = self._cross_layer(x, name, vision, sees_image)
        return F.linear(self._rms_norm(x, w + "norm"), self.weights["language_model.lm_head.weight"])

    def _self_layer(self, x: Tensor, name: str, causal: Tensor) -> Tensor:
        heads, kv_heads = self.text["num_attention_heads"], self.text["num_key_value_heads"]
        h = self._rms_norm(x, name + "input_layernorm")
        q = self._rotate(self._heads(h, name + "self_attn.q_proj", heads))
        k = self._rotate(self._heads(h, name + "self_attn.k_proj", kv_heads))
        v = self._heads(h, name + "self_attn.v_proj", kv_heads)
        x = x + self._attend(q, k, v, causal, name + "self_attn.o_proj")
        return x + self._mlp(x, name)

    def _cross_layer(self, x: Tensor, name: str, vision: Vision, sees_image: Tensor) -> Tensor:
        heads, kv_heads = self.text["num_attention_heads"], self.text["num_key_value_heads"]
        q = self._heads(self._rms_norm(x, name + "input_layernorm"), name + "cross_attn.q_proj", heads)
        k = self._heads(vision.states, name + "cross_attn.k_proj", kv_heads)
        v = self._heads(vision.states, name + "cross_attn.v_proj", kv_heads)
        q, k = self._rms_norm(q, name + "cross_attn.q_norm"), self._rms_norm(k, name + "cross_attn.k_norm")
        # Rows before the image are opened wide, as a softmax over nothing is undefined, and silenced afterwards.
        attended = self._attend(q, k, v, vision.real[None] | ~sees_image, name + "cross_attn.o_proj")
        if not self.early_rows_attend:
            attended = attended * sees_image
        x = x + self.weights[name + "cross_attn_attn_gate"].tanh() * attended
        return x + self.weights[name + "cross_attn_mlp_gate"].tanh() * self._mlp(x, name) * sees_image

    def _mlp(self, x: Tensor, name: str) -> Tensor:
        h = self._rms_norm(x, name + "post_attention_layernorm")
        gate, up, down = (self.weights[f"{name}mlp.{which}_proj.weight"] for which in ("gate", "up", "down"))
        return F.linear(F.silu(F.linear(h, gate)) * F.linear(h, up), down)

    def _rms_norm(self, x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.text["rms_norm_eps"]) * self.weights[name + ".weight"]

    def _rotate(self, x: Tensor) -> Tensor:
        """Rotary positions on [heads, length, head_dim], in the half-and-half order of the Hugging Face layout.

        Angles in float32, as in Meta's precompute_freqs_cis: rounded otherwise, logits after 300 tokens differ by 2e-4."""
        half = x.shape[-1] // 2
        frequencies = 1.0 / self.text["rope_theta"] ** (torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(x.shape[1], dtype=torch.float32)[:, None] * frequencies
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1)

    # --- both -----------------------------------------------------------------------------------------------------------

    def _heads(self, x: Tensor, name: str, heads: int) -> Tensor:
        return F.linear(x, self.weights[name + ".weight"]).unflatten(-1, (heads, -1)).transpose(0, 1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, out: str) -> Tensor:
        """q: [heads, n, dim]; k, v: [kv_heads, m, dim]; allowed: [n, m] of bool."""
        k, v = (t.repeat_interleave(q.shape[0] // k.shape[0], dim=0) for t in (k, v))
        scores = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(~allowed, float("-inf"))
        return F.linear((scores.softmax(-1) @ v).transpose(0, 1).flatten(1), self.weights[out + ".weight"])

    # --- answers --------------------------------------------------------------------------------------------------------

    def greedy(self, prompt: Sequence[int], image: Image.Image | None, count: int) -> tuple[list[int], Tensor]:
        """`count` tokens, the likeliest each time, and the logits [count, vocabulary] they were taken from."""
        vision = None if image is None else self.see(image)
        ids, rows = list(prompt), []
        for _ in range(count):
            rows.append(self.logits(ids, vision)[-1])
            ids.append(int(rows[-1].argmax()))
        return ids[len(prompt) :], torch.stack(rows)
