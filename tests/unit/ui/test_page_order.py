# pyright: reportArgumentType=false
"""The events of a page overlap: what an earlier one sends does not replace what a later one has chosen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mllama_demo.ui import chat_service, questions
from mllama_demo.ui.chat_page import ChatPage
from tests.support.chat_setup import REQUEST
from tests.support.manual_backend import conversation_of
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(180)
EMPTY = {"text": "", "files": []}
TOO_HOT = False, 99.0, 1.0, 50, 16, None  # sampling values that are refused


def with_data(**data: Any) -> Any:
    return SimpleNamespace(_data=data)


async def exported(page: ChatPage, id: str) -> str:
    return await page._service.export(page._kiosk.session_of(REQUEST), id, "json")


async def all_of(updates: Any) -> dict[Any, Any]:
    """All values that the updates of an event give to components."""
    together: dict[Any, Any] = {}
    async for update in updates:
        together |= update
    return together


# What starts each event of a page, of which the conversation `id` is open.
EVENTS: dict[str, Callable[[ChatPage, str, Path], Awaitable[dict[Any, Any]]]] = {
    "open": lambda page, id, _: page._sidebar._open(REQUEST, with_data(id=id)),
    "import": lambda page, _, file: page._sidebar._import(str(file), REQUEST),
    "refresh": lambda page, id, _: page._refresh(id, REQUEST),
    "undo": lambda page, id, _: page._undo(id, EMPTY, REQUEST),
    "select_version": lambda page, id, _: page._select_version(id, with_data(number=1), REQUEST),
    "ask, refused": lambda page, id, _: all_of(page._ask(REQUEST, id, {"text": "And now?", "files": []}, "newest", *TOO_HOT)),
    "retry, refused": lambda page, id, _: all_of(page._retry(REQUEST, id, *TOO_HOT)),
}


@pytest.mark.parametrize("event", EVENTS)
async def test_an_event_that_ends_after_new_chat_shows_no_conversation(page, store, notices, monkeypatch, event: str) -> None:
    owner = page._kiosk.session_of(REQUEST).owner
    id = store.save(owner, conversation_of("What is it?", "A dog.")).id
    await page._sidebar._open(REQUEST, with_data(id=id))
    file = Path(await exported(page, id))
    waiting, load_history = asyncio.Event(), chat_service.load_history
    late = []

    async def load_later(*asked: Any, **options: Any) -> Any:
        history = await load_history(*asked, **options)
        late.append(history)
        await waiting.wait()
        return history

    for module in (chat_service, questions):
        monkeypatch.setattr(module, "load_history", load_later)
    running = asyncio.create_task(EVENTS[event](page, id, file))
    await until(lambda: late, "the event has read the conversation")
    assert (await page._sidebar._new(REQUEST))[page.history] == []
    waiting.set()
    updates = await running
    allowed = {page.status, *page._sidebar.outputs} - {page._sidebar.title}
    assert set(updates) <= allowed, "neither history nor id, title, question field or tiles"
    assert page._service.pages.shown("one") == ""
