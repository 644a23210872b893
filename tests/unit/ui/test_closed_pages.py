# pyright: reportArgumentType=false
"""What happens when a page is closed, and that an open page holds no connection."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from mllama_demo.errors import BackendUnavailable
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.ui.chat_page import ChatPage
from mllama_demo.ui.gradio_patches.idle_queue import PAUSE_S
from mllama_demo.ui.page_update import PageSession
from mllama_demo.web.auth.identity import COOKIE
from tests.support.manual_backend import conversation_of

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def page(unbuilt: ChatPage) -> ChatPage:
    return unbuilt


def open_page(page: ChatPage, session: str, kiosk: bool) -> str:
    """Opens a page as Gradio does, and returns the owner of its conversations."""
    request = request_of(session, kiosk)
    page._start_session(request)
    return page._kiosk.session_of(request).owner


def request_of(session: str, kiosk: bool = False) -> Any:
    """What of Gradio's request is read."""
    return SimpleNamespace(
        session_hash=session, query_params={"kiosk": "1"} if kiosk else {}, username=None, headers={}, client=None
    )


def test_an_open_page_holds_no_connection(page: ChatPage) -> None:
    """A browser allows six connections to a host; see gradio_patches/page_close.js."""
    assert page.build().get_config_file()["connect_heartbeat"] is False


def test_the_queue_looks_for_events_less_often(page: ChatPage) -> None:
    """See gradio_patches/idle_queue.py."""
    with gr.Blocks() as demo:
        gr.Textbox()
    assert demo.queue()._queue.sleep_when_free < PAUSE_S, "Gradio's own pause is still shorter"
    assert page.build()._queue.sleep_when_free == PAUSE_S


def test_no_two_features_listen_to_one_event_of_the_page_script(page: ChatPage) -> None:
    """The scripts of the page start Python handlers through the events of one component: each event means one thing."""
    config = page.build().get_config_file()
    script = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == "page-script")
    events = [
        event for handler in config.get("dependencies", []) for component, event in handler["targets"] if component == script
    ]
    assert len(events) > 8
    assert sorted(events) == sorted(set(events))


def test_a_request_for_a_picture_has_the_owner_of_its_page(page: ChatPage) -> None:
    kiosk = open_page(page, "one", kiosk=True)
    open_page(page, "two", kiosk=False)
    cookie = f"{COOKIE}={'a' * 32}"
    assert page.owner_of("one", cookie, "ann") == kiosk
    assert page.owner_of("two", cookie, "ann") == "user:ann"
    assert page.owner_of("two", cookie, None) == "a" * 32
    assert page.owner_of("two", None, None) == page._kiosk.session_of(request_of("two")).owner


@pytest.mark.slow
async def test_closing_a_kiosk_page_deletes_its_conversations(page: ChatPage, store: ConversationStore) -> None:
    owner, other = open_page(page, "one", kiosk=True), open_page(page, "two", kiosk=True)
    for name in (owner, other):
        store.save(name, conversation_of("What is it?", "A dog."))
    await page.close_page("one")
    assert (len(store.list(owner)), len(store.list(other))) == (0, 1)


async def test_closing_an_ordinary_page_keeps_its_conversations(page: ChatPage, store: ConversationStore) -> None:
    owner = open_page(page, "one", kiosk=False)
    store.save(owner, conversation_of("What is it?", "A dog."))
    await page.close_page("one")
    assert len(store.list(owner)) == 1


async def test_a_closed_kiosk_page_is_forgotten_even_if_the_database_fails(
    page: ChatPage, store: ConversationStore, monkeypatch
) -> None:
    owner = open_page(page, "one", kiosk=True)
    store.save(owner, conversation_of("What is it?", "A dog."))
    assert (await page._service.search(PageSession(owner, "one"), "dog")).search_result

    def fails(*_: object) -> None:
        raise BackendUnavailable("The database does not answer.")

    monkeypatch.setattr(store, "erase", fails)
    with pytest.raises(BackendUnavailable):
        await page.close_page("one")
    assert page._kiosk.kiosk_session("one") is None
    assert page._service._conversation_list.listed(PageSession(owner, "one")).search_result == "", (
        "it searches for nothing any more"
    )


async def test_closing_an_unknown_page_is_ignored(page: ChatPage) -> None:
    await page.close_page("never-seen")


def test_following_an_answer_may_start_while_the_page_still_follows_another(page: ChatPage) -> None:
    """See gradio_patches/repeated_events.py."""
    demo = page.build()
    modes = {(function.name, function.trigger_mode) for function in demo.fns.values() if function.name in ("_follow", "_refresh")}
    assert modes == {("_follow", "multiple"), ("_refresh", "multiple")}
