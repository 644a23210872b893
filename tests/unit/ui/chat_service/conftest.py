"""A ChatSetup for each test, with frequent updates and a cache folder of its own."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import pytest

from mllama_demo.ui import page_sessions
from tests.support.chat_setup import ChatSetup


@pytest.fixture(autouse=True)
def frequent_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are updated often enough to show every change."""
    monkeypatch.setattr(page_sessions, "UPDATES_PER_SECOND", 1000)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Gradio copies every image that a component shows."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))


@pytest.fixture
def chat() -> Iterator[ChatSetup]:
    chat = ChatSetup()
    yield chat
    chat.close()


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text of each notice on the page."""
    shown: list[str] = []

    def warn(message: str, *, duration: float, title: str) -> None:
        assert (duration, title) == (12, "Please note")
        shown.append(message)

    monkeypatch.setattr(gr, "Warning", warn)
    return shown
