"""Damages a checkpoint in the Hugging Face layout, or writes its weights in another way, and reads how it is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.checkpoint.validate import INDEX, check_checkpoint
from mllama_demo.errors import CheckpointError

WEIGHTS = "model.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 7977010\n"


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: Any, data: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def edit_header(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    header, data = split(file.read_bytes())
    change(header)
    file.write_bytes(join(header, data))


def leave_out(file: Path, *names: str) -> None:
    """Removes tensors, and their data, from a file."""
    header, data = split(file.read_bytes())
    left, at = b"", 0
    for name in sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"]):
        begin, end = header[name]["data_offsets"]
        if name in names:
            del header[name]
            continue
        left += data[begin:end]
        header[name]["data_offsets"] = [at, at := at + end - begin]
    file.write_bytes(join(header, left))


def shard(folder: Path) -> dict[str, str]:
    """Cuts the weights into two files with an index, as large checkpoints come. Returns the index's weight_map."""
    header, data = split((folder / WEIGHTS).read_bytes())
    header.pop("__metadata__")
    names = sorted(header, key=lambda name: header[name]["data_offsets"])
    placed = {}
    for number, part in enumerate((names[:40], names[40:]), 1):
        file, entries, end = f"model-0000{number}-of-00002.safetensors", {}, 0
        start = header[part[0]]["data_offsets"][0]
        for name in part:
            begin, end = header[name]["data_offsets"]
            entries[name] = header[name] | {"data_offsets": [begin - start, end - start]}
            placed[name] = file
        (folder / file).write_bytes(join(entries, data[start:end]))
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    (folder / WEIGHTS).unlink()
    return placed


def newer_name(name: str) -> str:
    for old, new in (("language_model.model.", "model.language_model."), ("language_model.lm_head.", "lm_head.")):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name if name == "__metadata__" else "model." + name


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        check_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert str(folder) in message
    return message
