# pyright: reportArgumentType=false
"""Small random checkpoints in Meta's original format, and Meta's computation on them, written from Meta's code alone.

Knows nothing of the converter and nothing of the Hugging Face layout but the names that MetaReference looks up: the weights it
computes with are Meta's own, unturned, with rotary pairs side by side and tile embeddings as a grid of rows and columns.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tests.support.image_processor import MllamaImageProcessorPil
from tests.support.meta_reference import MetaReference

PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RATIOS = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]  # (height, width), ids from 1


@dataclass(frozen=True)
class Sizes:
    """Named as in params.json and in Meta's VisionEncoder."""

    dim: int = 64
    n_layers: int = 4
    n_heads: int = 8
    n_kv_heads: int = 4
    ffn: int = 96
    vocab_size: int = 256 + 32 + 256
    norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    use_scaled_rope: bool = True
    chunk: int = 56
    patch: int = 14
    cross: int = 2
    width: int = 32
    vision_layers: int = 3
    global_layers: int = 2
    vision_heads: int = 4
    intermediate: tuple[int, ...] = (0, 2)

    @property
    def head(self) -> int:
        return self.dim // self.n_heads

    @property
    def tokens(self) -> int:
        return (self.chunk // self.patch) ** 2 + 1

    @property
    def params(self) -> dict[str, object]:
        return {
            "dim": self.dim,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "vocab_size": self.vocab_size,
            "ffn_dim_multiplier": 1.3,
            "multiple_of": 32,
            "norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "use_scaled_rope": self.use_scaled_rope,
            "vision_chunk_size": self.chunk,
            "vision_max_num_chunks": 4,
            "vision_num_cross_attention_layers": self.cross,
        }


LLAMA_11B = Sizes(
    4096,
    32,
    32,
    8,
    14336,
    128256,
    chunk=560,
    cross=8,
    width=1280,
    vision_layers=32,
    global_layers=8,
    vision_heads=16,
    intermediate=(3, 7, 15, 23, 30),
)
LLAMA_90B = Sizes(
    8192,
    80,
    64,
    8,
    28672,
    128256,
    chunk=560,
    cross=20,
    width=1280,
    vision_layers=32,
    global_layers=8,
    vision_heads=16,
    intermediate=(3, 7, 15, 23, 30),
)


def layout(s: Sizes) -> Iterator[tuple[str, tuple[int, ...], int | None]]:
    """Name, whole shape and parallel dimension (None: the same in every shard) of all of Meta's tensors."""
    yield "text_model.tok_embeddings.weight", (s.vocab_size, s.dim), 0  # VocabParallelEmbedding
    yield "text_model.learnable_embedding.weight", (8, s.dim), 0
    yield "text_model.norm.weight", (s.dim,), None
    yield "text_model.output.weight", (s.vocab_size, s.dim), 0  # ColumnParallelLinear
    yield "text_model.rope.freqs", (s.head // 2,), None
    for stack, count in (("layers", s.n_layers), ("cross_attention_layers", s.cross)):
        for i in range(count):
            p = f"text_model.{stack}.{i}."
            yield p + "attention.wq.weight", (s.n_heads * s.head, s.dim), 0
            yield p + "attention.wk.weight", (s.n_kv_heads * s.head, s.dim), 0
            yield p + "attention.wv.weight", (s.n_kv_heads * s.head, s.dim), 0
            yield p + "attention.wo.weight", (s.dim, s.n_heads * s.head), 1  # RowParallelLinear
            yield p + "feed_forward.w1.weight", (s.ffn, s.dim), 0
            yield p + "feed_forward.w3.weight", (s.ffn, s.dim), 0
            yield p + "feed_forward.w2.weight", (s.dim, s.ffn), 1
            yield p + "attention_norm.weight", (s.dim,), None
            yield p + "ffn_norm.weight", (s.dim,), None
            if stack == "cross_attention_layers":
                yield p + "attention.q_norm.weight", (s.head,), None
                yield p + "attention.k_norm.weight", (s.head,), None
                yield p + "gate_attn", (1,), None
                yield p + "gate_ffwd", (1,), None
    e, w = "vision_model.vision_encoder.", s.width
    yield e + "conv1._linear.weight", (w, 3 * s.patch * s.patch), 0
    yield e + "class_embedding", (w,), None
    yield e + "positional_embedding", (s.tokens, w), None
    yield e + "gated_positional_embedding", (4, 4, s.tokens, w), None
    yield e + "gated_positional_embedding_gate", (1,), None
    for name in ("pre_tile_pos_embed", "post_tile_pos_embed"):
        yield e + name + ".embedding", (4, 4, 1, w), None
        yield e + name + ".gate", (1,), None
    for name in ("ln_pre", "ln_post"):
        yield from ((e + name + what, (w,), None) for what in (".weight", ".bias"))
    for stack, count in (("transformer", s.vision_layers), ("global_transformer", s.global_layers)):
        for i in range(count):
            p = f"{e}{stack}.resblocks.{i}."
            for which, cut in (("wq", 0), ("wk", 0), ("wv", 0), ("wo", 1)):
                yield f"{p}attn.{which}.weight", (w, w), cut
            yield p + "mlp.c_fc.weight", (4 * w, w), 0
            yield p + "mlp.c_fc.bias", (4 * w,), 0
            yield p + "mlp.c_proj.weight", (w, 4 * w), 1
            yield p + "mlp.c_proj.bias", (w,), None
            for name in ("ln_1", "ln_2"):
                yield from ((p + name + what, (w,), None) for what in (".weight", ".bias"))
            if stack == "global_transformer":
                yield from ((p + gate, (1,), None) for gate in ("gate_attn", "gate_ffn"))
    yield "vision_model.vision_projection.weight", (s.dim, (len(s.intermediate) + 1) * w), 0
    yield "vision_model.vision_projection.bias", (s.dim,), 0


def random_weights(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """Whole tensors, every one of them large enough to show in the logits when it is wrong."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape, _ in layout(sizes):
        noise = torch.randn(shape, generator=generator)
        if shape == (1,):
            weights[name] = 0.5 + 0.3 * noise  # a gate far from closed
        elif name.endswith(".weight") and len(shape) == 1:
            weights[name] = 1 + 0.2 * noise
        else:
            weights[name] = noise * (2 / math.sqrt(shape[-1]) if len(shape) == 2 else 0.3)
    return weights


def save(
    folder: Path, sizes: Sizes, weights: dict[str, Tensor], shards: int, *, single_name: str = "consolidated.00.pth"
) -> Path:
    """Writes the weights as `shards` files, with params.json and a tokenizer.model."""
    folder.mkdir(parents=True)
    cuts = {name: cut for name, _, cut in layout(sizes)}
    for number in range(shards):
        part = {
            name: (tensor if cuts[name] is None else tensor.chunk(shards, cuts[name])[number]).clone()
            for name, tensor in weights.items()
        }
        torch.save(part, folder / (single_name if shards == 1 else f"consolidated.{number:02d}.pth"))
    (folder / "params.json").write_text(json.dumps(sizes.params))
    (folder / "tokenizer.model").write_bytes(tokenizer_model(sizes.vocab_size - 256))
    return folder


def plain_tokens(count: int) -> list[bytes]:
    """Bytes in GPT-2's order, then `count` - 256 made by merging what is frequent in English."""
    first = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    tokens = [bytes([b]) for b in first + [b for b in range(256) if b not in first]]
    for word in (
        b" the",
        b" hello",
        b"ing",
        b" world",
        b"llama",
        b" 12",
        b"\n\n",
        "é".encode(),
        "日本".encode(),
        b"'ll",
        b"    ",
    ):
        for end in range(2, len(word) + 1):  # a word grows from its start, as byte pairs would have it
            if word[:end] not in tokens:
                tokens.append(word[:end])
    assert len(tokens) >= count, len(tokens)
    return tokens[:count]


def tokenizer_model(count: int) -> bytes:
    """tiktoken's format."""
    return b"".join(base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(plain_tokens(count)))


class Grid:
    """Meta's tile embeddings [4, 4, …], asked for by aspect ratio id: the rows × columns of that picture, then nothing."""

    def __init__(self, embedding: Tensor) -> None:
        self.embedding = embedding

    def __getitem__(self, ratio: int) -> Tensor:
        rows, columns = RATIOS[ratio - 1]
        table = torch.zeros(4, *self.embedding.shape[2:])
        for tile in range(rows * columns):
            table[tile] = self.embedding[tile // columns, tile % columns]
        return table


class MetaOriginal(MetaReference):
    """Meta's forward on whole weights in Meta's own format."""

    def __init__(self, sizes: Sizes, weights: dict[str, Tensor]) -> None:
        k = math.ceil(sizes.n_layers / sizes.cross)
        before = list(range(sizes.n_layers))[::-1][::k][: sizes.cross][::-1]
        order: list[tuple[str, int]] = []  # as Meta's forward walks: a cross-attention layer before its self-attention layer
        for i in range(sizes.n_layers):
            order += [("cross_attention_layers", before.index(i))] if i in before else []
            order += [("layers", i)]
        self.text = {
            "num_hidden_layers": len(order),
            "cross_attention_layers": [at for at, (stack, _) in enumerate(order) if stack != "layers"],
            "num_attention_heads": sizes.n_heads,
            "num_key_value_heads": sizes.n_kv_heads,
            "rms_norm_eps": sizes.norm_eps,
        }
        self.eyes = {
            "hidden_size": sizes.width,
            "patch_size": sizes.patch,
            "num_hidden_layers": sizes.vision_layers,
            "num_global_layers": sizes.global_layers,
            "intermediate_layers_indices": sizes.intermediate,
            "attention_heads": sizes.vision_heads,
            "norm_eps": 1e-5,
        }
        self.sizes = sizes
        self.image_token = sizes.vocab_size
        self.weights = dict(self._renamed(weights, order))
        tile = {"height": sizes.chunk, "width": sizes.chunk}
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # Meta's image_transform.py
        self.processor = MllamaImageProcessorPil(size=tile, max_image_tiles=4, image_mean=mean, image_std=std)
        self.features_of_output = self.early_rows_attend = False

    def _renamed(self, weights: dict[str, Tensor], order: list[tuple[str, int]]) -> Iterator[tuple[str, Tensor | Grid]]:
        """MetaReference's names for Meta's tensors, which stay as they are."""
        w = {name: tensor.float() for name, tensor in weights.items()}
        text = "language_model.model."
        both = [w["text_model.tok_embeddings.weight"], w["text_model.learnable_embedding.weight"]]
        yield text + "embed_tokens.weight", torch.cat(both)
        yield text + "norm.weight", w["text_model.norm.weight"]
        yield "language_model.lm_head.weight", w["text_model.output.weight"]
        for at, (stack, i) in enumerate(order):
            of, to = f"text_model.{stack}.{i}.", f"{text}layers.{at}."
            attention = to + ("self_attn." if stack == "layers" else "cross_attn.")
            for which in "qkvo":
                yield f"{attention}{which}_proj.weight", w[f"{of}attention.w{which}.weight"]
            for name, meta in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
                yield f"{to}mlp.{name}_proj.weight", w[f"{of}feed_forward.{meta}.weight"]
            yield to + "input_layernorm.weight", w[of + "attention_norm.weight"]
            yield to + "post_attention_layernorm.weight", w[of + "ffn_norm.weight"]
            if stack != "layers":
                yield attention + "q_norm.weight", w[of + "attention.q_norm.weight"]
                yield attention + "k_norm.weight", w[of + "attention.k_norm.weight"]
                yield to + "cross_attn_attn_gate", w[of + "gate_attn"]
                yield to + "cross_attn_mlp_gate", w[of + "gate_ffwd"]
        e, v, p = "vision_model.vision_encoder.", "vision_model.", self.sizes.patch
        yield v + "patch_embedding.weight", w[e + "conv1._linear.weight"].reshape(-1, 3, p, p)
        yield v + "class_embedding", w[e + "class_embedding"]
        yield v + "gated_positional_embedding.embedding", w[e + "positional_embedding"]
        yield v + "gated_positional_embedding.gate", w[e + "gated_positional_embedding_gate"]
        yield v + "gated_positional_embedding.tile_embedding.weight", Grid(w[e + "gated_positional_embedding"])
        for when in ("pre", "post"):
            yield f"{v}{when}_tile_positional_embedding.embedding.weight", Grid(w[f"{e}{when}_tile_pos_embed.embedding"])
            yield f"{v}{when}_tile_positional_embedding.gate", w[f"{e}{when}_tile_pos_embed.gate"]
            for what in ("weight", "bias"):
                yield f"{v}layernorm_{when}.{what}", w[f"{e}ln_{when}.{what}"]
        pairs = [(f"attn.w{which}", f"self_attn.{which}_proj") for which in "qkvo"]
        pairs += [("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")]
        pairs += [("ln_1", "input_layernorm"), ("ln_2", "post_attention_layernorm")]
        pairs += [("gate_attn", "gate_attn"), ("gate_ffn", "gate_ffn")]
        for stack in ("transformer", "global_transformer"):
            for name, tensor in w.items():
                if name.startswith(f"{e}{stack}.resblocks."):
                    number, _, rest = name.removeprefix(f"{e}{stack}.resblocks.").partition(".")
                    meta, published = next(pair for pair in pairs if rest.startswith(pair[0]))
                    yield f"{v}{stack}.layers.{number}.{published}{rest.removeprefix(meta)}", tensor
        for what in ("weight", "bias"):
            yield "multi_modal_projector." + what, w["vision_model.vision_projection." + what]

    def _rotate(self, x: Tensor) -> Tensor:
        """Meta's apply_rotary_emb: neighbours are the real and the imaginary part; apply_scaling stretches long waves."""
        half = x.shape[-1] // 2
        angles = 1.0 / self.sizes.rope_theta ** (torch.arange(0, x.shape[-1], 2)[:half].float() / x.shape[-1])
        if self.sizes.use_scaled_rope:
            scaled = []
            for frequency in angles.tolist():
                wavelength = 2 * math.pi / frequency
                if wavelength < 8192 / 4:
                    scaled.append(frequency)
                elif wavelength > 8192 / 1:
                    scaled.append(frequency / 8)
                else:
                    smooth = (8192 / wavelength - 1) / (4 - 1)
                    scaled.append((1 - smooth) * frequency / 8 + smooth * frequency)
            angles = torch.tensor(scaled)
        turns = torch.outer(torch.arange(x.shape[1]).float(), angles)
        rotation = torch.polar(torch.ones_like(turns), turns)
        turned = torch.view_as_complex(x.float().reshape(*x.shape[:-1], half, 2)) * rotation
        return torch.view_as_real(turned).flatten(-2)
