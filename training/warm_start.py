"""Weights for a new run from a finished checkpoint whose vocabulary and depth may differ."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor

from training.export import HEAD, published_name
from training.model import Student

_EMBEDDING = "model.language_model.embed_tokens.weight"
# What a layer adds to its input, by the end of the parameter's name. A new layer starts as the identity: it adds nothing.
_OUTPUTS = ("self_attn.o_proj.weight", "mlp.fc2.weight", "mlp.fc2.bias", "mlp.down_proj.weight")


def start_from(student: Student, tokenizer: Path, folder: Path) -> list[str]:
    """Copies the weights of the checkpoint in `folder` into the student, where shapes allow.

    Rows of the embedding and of the head are copied by token. A layer that the checkpoint lacks starts as the identity.

    Args:
        tokenizer: The student's tokenizer.json.

    Returns:
        The names of the parameters that were not copied.
    """
    new, old = Tokenizer.from_file(str(tokenizer)), Tokenizer.from_file(str(folder / "tokenizer.json"))
    pairs = [(id, there) for token, id in new.get_vocab().items() if (there := old.token_to_id(token)) is not None]
    fresh = []
    with safe_open(folder / "model.safetensors", "pt") as file:
        there, scale = set(file.keys()), float((file.metadata() or {}).get("logit_scale", 1))
        for name, value in student.model.state_dict().items():
            found = file.get_tensor(published_name(name)).float() if published_name(name) in there else None
            if found is not None and name == HEAD:
                found = found / scale
            if found is not None and name in (HEAD, _EMBEDDING):
                _copy_rows(value, found, pairs)
            elif found is not None and found.shape == value.shape:
                value.copy_(found)
            else:
                fresh.append(name)
                if found is None and name.endswith(_OUTPUTS):
                    torch.nn.init.zeros_(value)
    return fresh


def _copy_rows(value: Tensor, found: Tensor, pairs: list[tuple[int, int]]) -> None:
    for row, source in pairs:
        if row < len(value) and source < len(found):
            value[row] = found[source]
