"""A database in a file and one in memory, and a clock that tests move forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from tests.support.stored_conversations import sqlite_url


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "conversations.sqlite3")


@pytest.fixture(params=["file", "memory"])
def database(request: pytest.FixtureRequest, url: str) -> Iterator[Database]:
    database = Database(url if request.param == "file" else "sqlite://")
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> ConversationStore:
    return ConversationStore(database)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Moves the clock of every database forward."""
    offset = timedelta()
    now = Database.now

    def later(by: timedelta) -> None:
        nonlocal offset
        offset += by
        monkeypatch.setattr(Database, "now", lambda self: now(self) + offset)

    return later
