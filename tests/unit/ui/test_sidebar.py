"""What the drawer's buttons do when the database fails or refuses, and what becomes of the files that they make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.processing_utils import move_files_to_cache
from gradio.route_utils import delete_files_created_by_app

from mllama_demo.config.branding import load_brand
from mllama_demo.config.settings import Settings
from mllama_demo.errors import BackendUnavailable
from mllama_demo.generation.service import GenerationService
from mllama_demo.storage import shares
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.stores import Stores
from mllama_demo.ui import page_update as views_module
from mllama_demo.ui.chat_page import ChatPage
from tests.support.chat_setup import new_service
from tests.support.manual_backend import CodePoints, ManualBackend, talk

pytestmark = pytest.mark.timeout(180)

REQUEST: Any = SimpleNamespace(session_hash="one", query_params={}, username=None, headers={})  # what of Gradio's request is read


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(views_module.gr, "Warning", lambda message, **_: said.append(message))
    return said


@pytest.fixture
def page(store: ConversationStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ChatPage]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    settings = Settings()
    room = new_service(GenerationService(ManualBackend(), CodePoints(), store, settings), store)
    yield ChatPage(settings, room, Stores.of(store), load_brand(settings))
    room.close()


@pytest.fixture(autouse=True)
def demo(page: ChatPage) -> gr.Blocks:
    return page.build()


async def test_a_new_chat_that_the_database_refuses_is_a_notice_and_the_page_stays(page, store, notices, monkeypatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise BackendUnavailable("The database does not answer.")

    monkeypatch.setattr(store, "list", fails)
    assert list(await page._drawer._new(REQUEST)) == [page.status]
    assert notices == ["The database does not answer."]


async def test_a_second_link_that_cannot_be_made_leaves_the_first_where_it_is(page, store, notices, monkeypatch) -> None:
    conversation = store.save(page._kiosk.visit(REQUEST).owner, talk("What is it?", "A dog."))
    panel = page._drawer._share
    monkeypatch.setattr(shares, "MAX_SHARES", 1)
    first = await panel._share(conversation.id, shares.DEFAULT_LIFETIME, REQUEST)
    assert first[panel.path].startswith("share/")
    second = await panel._share(conversation.id, shares.DEFAULT_LIFETIME, REQUEST)
    assert second == {panel.path: gr.skip()}
    assert "has 1 links already" in notices[0]


async def export(page: ChatPage, store: ConversationStore, request: Any) -> list[Path]:
    """Exports a conversation as the page does; the files that hold it."""
    conversation = store.save(page._kiosk.visit(request).owner, talk("What is it?", "A dog."))
    path = await page._drawer._exporter("json")(conversation.id, request)
    file = page._drawer.exported
    served = Path(move_files_to_cache(file.postprocess(path), file, postprocess=True)["path"])
    assert (served.name, "A dog." in served.read_text()) == ("a-talk.json", True)
    return holding(page, served.parents[1])


def holding(page: ChatPage, folder: Path) -> list[Path]:
    files = [path for root in (folder, page._room.previews) for path in root.rglob("*") if path.is_file()]
    return [path for path in files if "A dog." in path.read_text(errors="replace")]


async def test_an_exported_file_is_there_once_and_goes_as_uploads_do(page, demo, store, tmp_path) -> None:
    assert len(await export(page, store, REQUEST)) == 1
    delete_files_created_by_app(demo, None)
    assert holding(page, tmp_path) == []


async def test_a_file_exported_at_a_kiosk_goes_with_its_page(page, store, tmp_path) -> None:
    request = SimpleNamespace(**{**vars(REQUEST), "query_params": {"kiosk": "1"}})
    assert len(await export(page, store, request)) == 1
    await page.left("one")
    assert holding(page, tmp_path) == []
