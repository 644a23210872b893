"""What the drawer's buttons do when the database does not answer, or no longer takes what is asked."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from hand_backend import CodePoints, HandBackend, run, talk

from mllama_demo import shares
from mllama_demo.answer import Answerer
from mllama_demo.brand import load_brand
from mllama_demo.config import Settings
from mllama_demo.errors import BackendUnavailable
from mllama_demo.store import Store
from mllama_demo.ui import views as views_module
from mllama_demo.ui.chat import ChatRoom
from mllama_demo.ui.layout import ChatPage

pytestmark = pytest.mark.timeout(180)

REQUEST: Any = SimpleNamespace(session_hash="one", query_params={}, username=None, headers={})  # what of Gradio's request is read


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(views_module.gr, "Warning", lambda message, **_: said.append(message))
    return said


@pytest.fixture
def page(store: Store) -> Iterator[ChatPage]:
    settings = Settings()
    room = ChatRoom(Answerer(HandBackend(), CodePoints(), store, settings), store, [])
    page = ChatPage(settings, room, store, load_brand(settings))
    page.build()
    yield page
    room.close()


def test_a_new_chat_that_the_database_refuses_is_a_notice_and_the_page_stays(page, store, notices, monkeypatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise BackendUnavailable("The database does not answer.")

    monkeypatch.setattr(store, "list", fails)
    assert list(run(page._drawer._new(REQUEST))) == [page.status]
    assert notices == ["The database does not answer."]


def test_a_second_link_that_cannot_be_made_leaves_the_first_where_it_is(page, store, notices, monkeypatch) -> None:
    conversation = store.save(page._kiosk.visit(REQUEST).owner, talk("What is it?", "A dog."))
    panel = page._drawer._share
    monkeypatch.setattr(shares, "MAX_SHARES", 1)
    first = run(panel._share(conversation.id, shares.DEFAULT_LIFETIME, REQUEST))
    assert first[panel.path].startswith("share/")
    second = run(panel._share(conversation.id, shares.DEFAULT_LIFETIME, REQUEST))
    assert second == {panel.path: gr.skip()}
    assert "has 1 links already" in notices[0]
