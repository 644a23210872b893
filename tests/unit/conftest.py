"""Fixtures that several packages' tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database


@pytest.fixture
def database() -> Iterator[Database]:
    """An empty database in memory."""
    database = Database("sqlite://")
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> ConversationStore:
    return ConversationStore(database)


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "demo.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
