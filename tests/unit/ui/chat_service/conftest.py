"""A chat room for each test, with pages that look often and a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mllama_demo.ui import page_sessions as open_pages
from mllama_demo.ui import page_update as views
from tests.support.chat_setup import ChatSetup


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages look often enough to see every change."""
    monkeypatch.setattr(open_pages, "UPDATES_PER_SECOND", 1000)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Gradio copies every picture that a component shows."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))


@pytest.fixture
def house() -> Iterator[ChatSetup]:
    house = ChatSetup()
    yield house
    house.close()


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text of each notice on the page. A notice with a title is one too many."""
    shown: list[str] = []

    def warn(message: str, *, duration: float) -> None:
        assert duration == 12
        shown.append(message)

    monkeypatch.setattr(views.gr, "Warning", warn)
    return shown
