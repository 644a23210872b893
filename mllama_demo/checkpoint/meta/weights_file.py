"""Writes safetensors files one tensor at a time, so that a file need not fit in memory. No incomplete file gets its name.

The format: 8 bytes with the header's length, little-endian; a JSON header padded with spaces to a multiple of 8; the data of the
tensors end to end (https://huggingface.co/docs/safetensors#format).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

INDEX = "model.safetensors.index.json"
PARTIAL = ".partial"
WIDTH = {"BF16": 2, "F16": 2, "F32": 4}


@dataclass(frozen=True)
class Entry:
    """A tensor to write. dtype: safetensors' name of the type."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * WIDTH[self.dtype]


def divide(entries: list[Entry], limit: int) -> dict[str, list[Entry]]:
    """Entries by file name, in order, each file at most `limit` bytes unless a single tensor is larger."""
    files: list[list[Entry]] = [[]]
    space = limit
    for entry in entries:
        if files[-1] and entry.bytes > space:
            files.append([])
            space = limit
        files[-1].append(entry)
        space -= entry.bytes
    if len(files) == 1:
        return {"model.safetensors": files[0]}
    return {f"model-{number:05d}-of-{len(files):05d}.safetensors": part for number, part in enumerate(files, 1)}


def index(files: dict[str, list[Entry]]) -> dict[str, Any]:
    """The content of the index of several files: their total size, and the file of each tensor."""
    total = sum(entry.bytes for part in files.values() for entry in part)
    return {"metadata": {"total_size": total}, "weight_map": {entry.name: file for file, part in files.items() for entry in part}}


def header(entries: list[Entry]) -> bytes:
    """The first bytes of a file, up to the data."""
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for entry in entries:
        content[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [position, position + entry.bytes],
        }
        position += entry.bytes
    raw = json.dumps(content, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


def size(entries: list[Entry]) -> int:
    """Bytes of the whole file."""
    return len(header(entries)) + sum(entry.bytes for entry in entries)


def is_whole(file: Path, entries: list[Entry]) -> bool:
    """Whether the file is complete: it has exactly this header and length."""
    start = header(entries)
    if not file.is_file() or file.stat().st_size != size(entries):
        return False
    with file.open("rb") as stream:
        return stream.read(len(start)) == start


def write(file: Path, entries: list[Entry], tensor: Callable[[Entry], Any]) -> None:
    """Writes a file. tensor: makes the contiguous torch tensor of an entry; called for one entry after the other."""
    with whole_file(file) as stream:
        stream.write(header(entries))
        for entry in entries:
            made = tensor(entry)
            stream.write(memoryview(made.flatten().view(_bytes_type()).numpy()))  # numpy has no bfloat16
            del made


def _bytes_type() -> Any:
    import torch

    return torch.uint8


def write_json(file: Path, content: Any) -> None:
    with whole_file(file) as stream:
        stream.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[IO[bytes]]:
    """Yields a stream to write `file`. The file gets its name when all is on the disk; a failure leaves no file."""
    partial = file.with_name(file.name + PARTIAL)
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
