"""What several rooms' tests need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mllama_demo.storage.conversations import Store


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty store in memory."""
    store = Store("sqlite://")
    yield store
    store.close()


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "demo.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
