"""Finds and opens Meta's original files: params.json, tokenizer.model and consolidated.*.pth. Weights are mapped, not read.

A problem of the folder is a CheckpointError that names the file and says what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama_demo.errors import CheckpointError


@dataclass(frozen=True)
class MetaFiles:
    """Meta's files. params: the content of params.json. shards: the weight files, in model-parallel order."""

    params: dict[str, Any]
    tokenizer: Path
    shards: tuple[Path, ...]

    def fingerprint(self) -> dict[str, Any]:
        """Identifies the files, for a conversion that continues."""
        files = [*self.shards, self.tokenizer]
        return {"params": self.params, "files": [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]}


def find(folder: Path, num_shards: int | None = None) -> MetaFiles:
    """Finds the files, and reads only params.json. num_shards: how many there must be; None takes what is there."""
    if not folder.is_dir():
        raise CheckpointError(
            f"The input folder {folder} {'is a file' if folder.exists() else 'does not exist'}; name Meta's folder."
        )
    inner = folder / "original"
    if not (folder / "params.json").is_file():
        if (inner / "params.json").is_file():
            raise CheckpointError(f"{folder} keeps Meta's files in a folder of their own; pass --input-dir {inner}.")
        if (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} is in the Hugging Face layout already; use it as model_path.")
        raise CheckpointError(f"{folder} has no params.json; name the folder with consolidated.00.pth, as downloaded from Meta.")
    if not (folder / "tokenizer.model").is_file():
        raise CheckpointError(f"{folder} has no tokenizer.model; download it from where the checkpoint came from.")
    return MetaFiles(_params(folder / "params.json"), folder / "tokenizer.model", _shards(folder, num_shards))


def _params(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); download it again.") from None
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]  # some releases nest it
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a JSON object, not a {type(content).__name__}; download it again.")
    return content


def _shards(folder: Path, num_shards: int | None) -> tuple[Path, ...]:
    numbered = {
        int(found[1]): file for file in folder.iterdir() if (found := re.fullmatch(r"consolidated\.(\d+)\.pth", file.name))
    }
    if not numbered and (folder / "consolidated.pth").is_file():
        numbered = {0: folder / "consolidated.pth"}
    if not numbered:
        raise CheckpointError(f"{folder} has no consolidated.00.pth; download the weights too.")
    there, needed = len(numbered), max(num_shards or 0, max(numbered) + 1)
    for number in range(needed):
        if number not in numbered:
            raise CheckpointError(
                f"{folder} lacks consolidated.{number:02d}.pth ({there} of {needed} shards are there); download it."
            )
    if num_shards is not None and there != num_shards:
        raise CheckpointError(f"{folder} has {there} shards, but --num-shards is {num_shards}; leave the option out.")
    return tuple(numbered[number] for number in range(needed))


def open_shards(files: tuple[Path, ...]) -> list[dict[str, Any]]:
    """The tensors of each shard, mapped from the files, so that the operating system may drop them from memory."""
    import torch

    opened: list[dict[str, Any]] = []
    for file in files:
        try:
            content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError and more for damaged files
            reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
            raise CheckpointError(
                f"{file} ({file.stat().st_size:,} bytes) is cut off or no PyTorch checkpoint ({reason}); download it again."
            ) from None
        if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise CheckpointError(f"{file} holds no mapping of names to tensors; it is not one of Meta's files.")
        opened.append(content)
    _check_alike(files, opened)
    return opened


def _check_alike(files: tuple[Path, ...], shards: list[dict[str, Any]]) -> None:
    for file, shard in zip(files, shards, strict=True):
        for one, other, where in ((shards[0], shard, file), (shard, shards[0], files[0])):
            if missing := one.keys() - other.keys():
                raise CheckpointError(f"{where} lacks the tensor {min(missing)}, which another shard has; download it again.")
        for name, tensor in shard.items():
            first = shards[0][name]
            if tensor.shape != first.shape or tensor.dtype != first.dtype:
                raise CheckpointError(
                    f"The tensor {name} is {_kind(tensor)} in {file.name} but {_kind(first)} in {files[0].name}; "
                    "the files are not of one checkpoint."
                )


def _kind(tensor: Any) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def shapes(shard: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in shard.items()}
