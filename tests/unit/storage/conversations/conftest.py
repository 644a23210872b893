"""A store in a file or in memory, and a clock to move on."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mllama_demo.storage import conversations as store_module
from mllama_demo.storage.conversations import Store
from tests.support.stored_conversations import sqlite_url


@pytest.fixture
def url(tmp_path):
    return sqlite_url(tmp_path / "conversations.sqlite3")


@pytest.fixture(params=["file", "memory"])
def store(request, url):
    store = Store(url if request.param == "file" else "sqlite://")
    yield store
    store.close()


@pytest.fixture
def later(monkeypatch):
    """Makes time pass."""
    offset = timedelta()
    now = store_module._now

    def later(by: timedelta) -> None:
        nonlocal offset
        offset += by + timedelta(seconds=1)
        monkeypatch.setattr(store_module, "_now", lambda: now() + offset)

    return later
