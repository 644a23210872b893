"""What becomes of a page that is closed, and what a page costs while it is open."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from mllama_demo.config.branding import load_brand
from mllama_demo.config.settings import Settings
from mllama_demo.errors import BackendUnavailable
from mllama_demo.generation.service import GenerationService
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.stores import Stores
from mllama_demo.ui.chat_page import ChatPage
from mllama_demo.ui.page_update import PageSession
from tests.support.chat_setup import new_service
from tests.support.manual_backend import CodePoints, ManualBackend, talk

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def page(store: ConversationStore) -> Iterator[ChatPage]:
    settings = Settings()
    room = new_service(GenerationService(ManualBackend(), CodePoints(), store, settings), store)  # by hand
    yield ChatPage(settings, room, Stores.of(store), load_brand(settings))
    room.close()


def open_page(page: ChatPage, session: str, kiosk: bool) -> str:
    """Opens it as Gradio would; whose conversations it keeps."""
    request = SimpleNamespace(session_hash=session, query_params={"kiosk": "1"} if kiosk else {}, username=None, headers={})
    page._arrived(request)  # what of Gradio's request is read
    return page._kiosk.visit(request).owner


def test_an_open_page_holds_no_connection(page: ChatPage) -> None:
    """A browser has six to a host; see ChatPage.left."""
    assert page.build().get_config_file()["connect_heartbeat"] is False


async def test_what_was_said_at_a_kiosk_goes_with_its_page(page: ChatPage, store: ConversationStore) -> None:
    owner, other = open_page(page, "one", kiosk=True), open_page(page, "two", kiosk=True)
    for name in (owner, other):
        store.save(name, talk("What is it?", "A dog."))
    await page.left("one")
    assert (len(store.list(owner)), len(store.list(other))) == (0, 1)


async def test_what_was_said_on_a_visitors_own_page_stays(page: ChatPage, store: ConversationStore) -> None:
    owner = open_page(page, "one", kiosk=False)
    store.save(owner, talk("What is it?", "A dog."))
    await page.left("one")
    assert len(store.list(owner)) == 1


async def test_a_kiosks_page_is_forgotten_though_the_database_fails(
    page: ChatPage, store: ConversationStore, monkeypatch
) -> None:
    owner = open_page(page, "one", kiosk=True)
    store.save(owner, talk("What is it?", "A dog."))
    assert (await page._room.search(PageSession(owner, "one"), "dog")).found

    def fails(*_: object) -> None:
        raise BackendUnavailable("The database does not answer.")

    monkeypatch.setattr(store, "erase", fails)
    with pytest.raises(BackendUnavailable):
        await page.left("one")
    assert page._kiosk.page("one") is None
    assert page._room._shelf.listed(PageSession(owner, "one")).found == "", "it searches for nothing any more"


async def test_an_unknown_page_may_leave(page: ChatPage) -> None:
    await page.left("never-seen")


def test_a_page_follows_an_answer_though_it_has_not_let_go_of_another(page: ChatPage) -> None:
    """Gradio drops, with all that comes after, an event that is still under way, unless it is one of "multiple"."""
    demo = page.build()
    modes = {(function.name, function.trigger_mode) for function in demo.fns.values() if function.name in ("_follow", "_settle")}
    assert modes == {("_follow", "multiple"), ("_settle", "multiple")}
