"""Writes safetensors files one tensor at a time, so that a file need not fit in memory.

A file is written under a temporary name. It gets its final name when it is complete.

A safetensors file has three parts: the length of the header in 8 bytes, little-endian; the header, which is JSON padded with
spaces to a multiple of 8 bytes; the data of the tensors without gaps (https://huggingface.co/docs/safetensors#format).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama_demo.runtime.whole_file import whole_file

INDEX = "model.safetensors.index.json"  # the file name by which transformers finds a checkpoint of several files
WIDTH = {"BF16": 2, "F16": 2, "F32": 4}  # bytes of one number, by safetensors' name of the type


@dataclass(frozen=True)
class Entry:
    """A tensor to write, without its data.

    Attributes:
        dtype: A key of WIDTH.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * WIDTH[self.dtype]


def divide(entries: list[Entry], limit: int) -> dict[str, list[Entry]]:
    """Divides the entries, in their order, into files. Returns the entries of each file by file name.

    Args:
        limit: The largest number of bytes of tensor data in one file. A tensor that is larger gets a file of its own.
    """
    files: list[list[Entry]] = [[]]
    space_left = limit
    for entry in entries:
        if files[-1] and entry.bytes > space_left:
            files.append([])
            space_left = limit
        files[-1].append(entry)
        space_left -= entry.bytes
    if len(files) == 1:
        return {"model.safetensors": files[0]}
    return {f"model-{number:05d}-of-{len(files):05d}.safetensors": part for number, part in enumerate(files, 1)}


def index(files: dict[str, list[Entry]]) -> dict[str, Any]:
    """Returns the content of the file INDEX: the total size of the tensors, and the file name of each tensor."""
    total = sum(entry.bytes for part in files.values() for entry in part)
    return {"metadata": {"total_size": total}, "weight_map": {entry.name: file for file, part in files.items() for entry in part}}


def header(entries: list[Entry]) -> bytes:
    """Returns the bytes of a file before the data of the tensors: the length of the header and the header."""
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        content[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.bytes],
        }
        offset += entry.bytes
    encoded = json.dumps(content, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded


def size(entries: list[Entry]) -> int:
    """Returns the number of bytes of the file."""
    return len(header(entries)) + sum(entry.bytes for entry in entries)


def is_whole(file: Path, entries: list[Entry]) -> bool:
    """Tells whether the file is complete. A complete file has exactly the header and the length of `entries`."""
    expected = header(entries)
    if not file.is_file() or file.stat().st_size != size(entries):
        return False
    with file.open("rb") as stream:
        return stream.read(len(expected)) == expected


def write(file: Path, entries: list[Entry], tensor: Callable[[Entry], Any]) -> None:
    """Writes a safetensors file.

    Args:
        tensor: Returns the contiguous torch tensor of an entry. Called for each entry in turn.
    """
    import torch

    with whole_file(file, durable=True) as stream:
        stream.write(header(entries))
        for entry in entries:
            data = tensor(entry)
            stream.write(memoryview(data.flatten().view(torch.uint8).numpy()))  # as bytes, because numpy has no bfloat16
            del data  # the next tensor is made after this one is freed


def write_json(file: Path, content: Any) -> None:
    """Writes a JSON file. The file gets its name when it is complete."""
    with whole_file(file, durable=True) as stream:
        stream.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
