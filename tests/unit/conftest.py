"""What several rooms' tests need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mllama_demo.store import Store


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty store in memory."""
    store = Store("sqlite://")
    yield store
    store.close()
