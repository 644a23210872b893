# pyright: reportArgumentType=false
"""The sidebar's buttons when the database fails or refuses, and the deletion of exported files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.processing_utils import move_files_to_cache
from gradio.route_utils import delete_files_created_by_app

from mllama_demo.errors import BackendUnavailable
from mllama_demo.storage import share_links, shares
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.ui.chat_page import ChatPage
from tests.support.chat_setup import REQUEST
from tests.support.manual_backend import conversation_of
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(180)


async def test_a_database_failure_of_a_new_chat_is_a_notice_and_the_page_stays(page, store, notices, monkeypatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise BackendUnavailable("The database does not answer.")

    monkeypatch.setattr(store, "list", fails)
    assert list(await page._sidebar._new(REQUEST)) == [page.status]
    assert notices == ["The database does not answer."]


@pytest.fixture
def reading_ratings(page: ChatPage, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Of each event that has read the list and now reads ratings: what lets it go on."""
    waiting, ratings = [], page._service._feedback.ratings

    def wait_and_read(*asked: Any) -> Any:
        waiting.append(Event())
        waiting[-1].wait(60)
        return ratings(*asked)

    monkeypatch.setattr(page._service._feedback, "ratings", wait_and_read)
    return waiting


async def test_a_list_read_before_a_search_does_not_replace_the_search_result(page, store, reading_ratings) -> None:
    owner = page._kiosk.session_of(REQUEST).owner
    first = store.save(owner, conversation_of("What is it?", "A dog."))
    store.save(owner, conversation_of("And this?", "A cat."))
    page._service.pages.show(page._service.pages.next_version("one"), first.id)
    refreshed = asyncio.create_task(page._refresh(first.id, REQUEST))
    await until(lambda: reading_ratings, "the refresh has read the list")
    found = await page._sidebar._search("dog", REQUEST)
    reading_ratings[0].set()
    late = await refreshed
    assert found[page._sidebar.conversations].count("<li") == 1
    assert page.history in late
    assert not late.keys() & {page._sidebar.conversations, page._sidebar.search_result}
    again = asyncio.create_task(page._refresh(first.id, REQUEST))
    await until(lambda: len(reading_ratings) > 1, "the next refresh has read the list")
    reading_ratings[1].set()
    assert (await again)[page._sidebar.conversations].count("<li") == 1


async def test_a_second_link_that_is_refused_leaves_the_first_on_the_page(page, store, notices, monkeypatch) -> None:
    conversation = store.save(page._kiosk.session_of(REQUEST).owner, conversation_of("What is it?", "A dog."))
    panel = page._sidebar._share
    monkeypatch.setattr(share_links, "MAX_SHARES", 1)
    first = await panel._share(conversation.id, shares.DEFAULT_LIFETIME, REQUEST)
    assert first[panel.path].startswith("share/")
    second = await panel._share(conversation.id, shares.DEFAULT_LIFETIME, REQUEST)
    assert second == {panel.path: gr.skip()}
    assert "has 1 links already" in notices[0]


async def export(page: ChatPage, store: ConversationStore, request: Any) -> list[Path]:
    """Exports a conversation as the page does, and returns the files that contain it."""
    conversation = store.save(page._kiosk.session_of(request).owner, conversation_of("What is it?", "A dog."))
    event: Any = SimpleNamespace(_data={"id": conversation.id, "kind": "json"})
    path = await page._sidebar._export(request, event)
    file = page._sidebar.exported
    served = Path(move_files_to_cache(file.postprocess(path), file, postprocess=True)["path"])
    assert (served.name, "A dog." in served.read_text()) == ("a-talk.json", True)
    return holding(page, served.parents[1])


def holding(page: ChatPage, folder: Path) -> list[Path]:
    files = [path for root in (folder, page._service.previews) for path in root.rglob("*") if path.is_file()]
    return [path for path in files if "A dog." in path.read_text(errors="replace")]


async def test_an_exported_file_exists_once_and_is_deleted_with_the_uploads(page, demo, store, tmp_path) -> None:
    assert len(await export(page, store, REQUEST)) == 1
    delete_files_created_by_app(demo, None)
    assert holding(page, tmp_path) == []


async def test_a_file_exported_on_a_kiosk_is_deleted_when_the_page_is_closed(page, store, tmp_path) -> None:
    request = SimpleNamespace(**{**vars(REQUEST), "query_params": {"kiosk": "1"}})
    assert len(await export(page, store, request)) == 1
    await page.close_page("one")
    assert holding(page, tmp_path) == []
