"""Files that are written whole or not at all: beside their place first, under a name of their own, and then moved there."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PARTIAL = ".partial"  # the suffix of the temporary name


@contextlib.contextmanager
def whole_file(file: Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """Yields a stream to a temporary file. The temporary file is renamed to `file` when the block ends without an exception.

    An exception in the block removes the temporary file and leaves `file` as it was. Several processes, also of several machines,
    may write one file at the same time: it is that of the last one.

    Args:
        durable: Whether the content is on the disk before the name is, so that a crash of the machine leaves no empty file.
    """
    # The beginning of the name, for whoever finds the file of a killed process: a whole name may be as long as a system allows.
    partial = file.with_name(f".{file.name[:40]}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
