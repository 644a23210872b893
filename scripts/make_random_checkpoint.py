"""Makes a checkpoint with random weights in the published Hugging Face layout: python scripts/make_random_checkpoint.py --help

For tests and measurements where no real checkpoint is at hand: its answers are random text, but its files, its shapes and its
special tokens are those of Llama 3.2 Vision. The weights are written tensor by tensor, so that one tensor is in memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mllama_demo.checkpoint.meta import configs, weights_file  # noqa: E402
from mllama_demo.checkpoint.meta.layout import MetaModel, VisionConstants, outputs  # noqa: E402
from mllama_demo.checkpoint.meta.tokenizer import chat_template, special_tokens_map, tokenizer_config, tokenizer_json  # noqa: E402
from mllama_demo.checkpoint.meta.weights_file import Entry  # noqa: E402

if TYPE_CHECKING:
    import torch

FILE_LIMIT = 5 * 10**9  # bytes of a weight file, as in the published checkpoints
SMALL_FILES = 100 * 10**6  # bytes of the tokenizer and the JSON files; an upper estimate
SPECIAL_IDS = 256  # ids of special tokens before `<|image|>`
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class Shape:
    """The sizes of one checkpoint. what: its description in --help."""

    what: str
    model: MetaModel


def _model(**sizes: int) -> MetaModel:
    """The sizes with what all shapes have in common. vision_heads and intermediate layers follow from the vision encoder."""
    layers = sizes["vision_layers"]
    # Five of 32 layers in the published checkpoints, the same shares of fewer layers in the others.
    features = sorted({number * layers // 32 for number in (3, 7, 15, 23, 30)})
    heads = sizes.pop("vision_heads")
    return MetaModel(
        **sizes,
        norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling_factor=8.0,
        tiles=4,
        patch=14,
        vision_ffn=4 * sizes["vision_dim"],
        vision=VisionConstants(heads, tuple(features)),
    )


# fmt: off
SHAPES = {
    "tiny": Shape("1 million parameters, a vocabulary of 1,280, for tests", _model(
        dim=128, layers=3, cross_layers=1, heads=4, kv_heads=2, ffn=256, vocab=1280, tile_size=56,
        vision_dim=64, vision_layers=4, global_layers=1, vision_heads=4)),
    "70m": Shape("70 million parameters besides embeddings and output layer (131 million), the published vocabulary", _model(
        dim=512, layers=6, cross_layers=2, heads=8, kv_heads=2, ffn=4096, vocab=128256, tile_size=224,
        vision_dim=320, vision_layers=8, global_layers=2, vision_heads=8)),
    "11b": Shape("every size of Llama 3.2 11B Vision; 21 GB in bfloat16", _model(
        dim=4096, layers=32, cross_layers=8, heads=32, kv_heads=8, ffn=14336, vocab=128256, tile_size=560,
        vision_dim=1280, vision_layers=32, global_layers=8, vision_heads=16)),
}
# fmt: on


def write_checkpoint(folder: Path, model: MetaModel, dtype: str = "bfloat16", seed: int = 0) -> None:
    """Writes the checkpoint. The same arguments give the same files.

    Args:
        folder: The folder to create; it may exist when it is empty.
        dtype: A key of DTYPES.

    Raises:
        SystemExit: The folder is not empty, or the disk has too little space.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SystemExit(f"{folder} exists and is no empty folder; name another one, or remove it first.")
    made = outputs(model)
    files = weights_file.divide([Entry(output.name, DTYPES[dtype], output.shape) for output in made], FILE_LIMIT)
    needed = sum(weights_file.size(entries) for entries in files.values()) + SMALL_FILES
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    if free < needed:
        raise SystemExit(
            f"The checkpoint needs {needed / 1e9:.1f} GB on the disk of {folder}, where {free / 1e9:.1f} GB are free."
        )
    folder.mkdir(parents=True, exist_ok=True)

    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, entries in files.items():
        print(f"Writing {folder / name} ({weights_file.size(entries) / 1e9:.2f} GB) …", flush=True)
        weights_file.write(folder / name, entries, lambda entry: random_tensor(entry, getattr(torch, dtype), generator))
    if len(files) > 1:
        weights_file.write_json(folder / weights_file.INDEX, weights_file.index(files))
    plain = plain_tokens(model.vocab - SPECIAL_IDS)
    (folder / "tokenizer.json").write_text(tokenizer_json(plain), encoding="utf-8")
    for name, content in {
        "config.json": configs.config(model, dtype, instruct=True),
        "generation_config.json": configs.generation_config(model, instruct=True),
        "preprocessor_config.json": configs.preprocessor_config(model),
        "tokenizer_config.json": tokenizer_config(instruct=True),
        "special_tokens_map.json": special_tokens_map(instruct=True),
        "chat_template.json": chat_template(),
        "processor_config.json": {"processor_class": "MllamaProcessor"},
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def random_tensor(entry: Entry, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """A random tensor in the size that keeps the activations of a deep model near 1.

    Matrices have the standard deviation 1 / sqrt(inputs). The output layer has three times as much, so that some tokens are much
    more likely than others. Gates are open.
    """
    import torch

    noise = torch.empty(entry.shape, dtype=dtype).normal_(generator=generator)
    if "norm" in entry.name and entry.name.endswith(".weight"):
        return noise.mul_(0.1).add_(1)
    if entry.shape == (1,):
        return noise.mul_(0.1).add_(0.5)
    if entry.name.endswith("embed_tokens.weight"):
        return noise
    if entry.name.endswith((".bias", "_embedding", ".embedding", "embedding.weight")) and "patch" not in entry.name:
        return noise.mul_(0.1)
    inputs = noise[0].numel()
    return noise.mul_((3 if "lm_head" in entry.name else 1) * inputs**-0.5)


def plain_tokens(count: int) -> list[bytes]:
    """A vocabulary of `count` different tokens: the bytes in GPT-2's order, then pairs of letters and pronounceable words.

    Every word is made of two tokens before it, so that byte-pair encoding reaches it.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order = printable + [byte for byte in range(256) if byte not in printable]
    tokens = dict.fromkeys(bytes([byte]) for byte in order)
    letters = "abcdefghijklmnopqrstuvwxyz"
    syllables = [consonant + vowel for consonant in "tnsrlhdcmpbfgwvkjzxq" for vowel in "eaoiuy"]
    pairs = ["".join(pair) for pair in itertools.product(letters, repeat=2)]
    words = itertools.chain(
        (" " + letter for letter in letters),
        syllables,
        (" " + syllable for syllable in syllables),
        pairs,
        (" " + pair for pair in pairs),
        (space + "".join(word) for word in itertools.product(syllables, repeat=2) for space in (" ", "")),
        (space + "".join(word) for word in itertools.product(syllables, repeat=3) for space in (" ", "")),
    )
    for word in words:
        if len(tokens) == count:
            break
        tokens[word.encode()] = None
    return list(tokens)[:count]


def main() -> int:
    shapes = "; ".join(f"{name}: {shape.what}" for name, shape in SHAPES.items())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, required=True, help=shapes)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="number format of the weights (default: bfloat16)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    parser.add_argument("folder", type=Path, help="the folder to create")
    given = parser.parse_args()
    write_checkpoint(given.folder, SHAPES[given.shape].model, given.dtype, given.seed)
    print(f"Done: {given.folder} is ready to be used as model_path.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
