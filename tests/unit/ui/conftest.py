# pyright: reportArgumentType=false
"""A chat page without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from mllama_demo.config.branding import load_brand
from mllama_demo.config.settings import Settings
from mllama_demo.generation.service import GenerationService
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.stores import Stores
from mllama_demo.ui.chat_page import ChatPage
from tests.support.chat_setup import new_service
from tests.support.code_points import CodePoints
from tests.support.manual_backend import ManualBackend


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text of each notice on the page."""
    said: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: said.append(message))
    return said


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages get no web application. Gradio makes two for each page, which takes half of the time; these pages get no requests."""
    monkeypatch.setattr("gradio.blocks.App", SimpleNamespace(create_app=lambda *_, **__: None))


@pytest.fixture
def unbuilt(store: ConversationStore, no_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ChatPage]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    settings = Settings()
    service = new_service(GenerationService(ManualBackend(), CodePoints(), store, settings), store)
    yield ChatPage(settings, service, Stores.of(store), load_brand(settings))
    service.close()


@pytest.fixture
def demo(unbuilt: ChatPage) -> gr.Blocks:
    return unbuilt.build()


@pytest.fixture
def page(unbuilt: ChatPage, demo: gr.Blocks) -> ChatPage:
    return unbuilt
