"""After an answer has begun, a page follows it, and refreshes when the answer is complete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mllama_demo.chat.live_rendering import LiveRendering
from mllama_demo.ui import page_sessions
from mllama_demo.ui.page_update import ListedConversation, PageUpdate
from tests.support.chat_setup import PAGE, TAB, ChatSetup, CollectedUpdates, texts_shown, value
from tests.support.manual_backend import READ, finished
from tests.support.waiting import until


async def test_the_answer_continues_after_the_first_event_and_is_followed_to_its_end(chat: ChatSetup) -> None:
    asked = CollectedUpdates(chat.begin(chat.service.questions.ask(PAGE, "", value("Hello?"))))
    await chat.backend.taken()
    chat.backend.send(READ)
    chat.backend.say("Hi ")
    views = await asked.all()
    assert [view.begun for view in views] == [False] * (len(views) - 1) + [True]
    followed = CollectedUpdates(chat.service.follow(PAGE, asked.id))
    await until(lambda: followed.updates and texts_shown(followed.updates[-1]) == ["Hi"], "the page follows")
    chat.backend.say("there")
    chat.backend.send(finished())
    views = await followed.all()
    assert views == [PageUpdate(live=view.live) for view in views], "nothing but the answer"
    assert chat.stored_texts(asked.id) == ["Hello?", "Hi there"]
    settled = await chat.service.refresh(PAGE, asked.id)
    assert (texts_shown(settled), settled.answering, settled.title) == (["Hello?", "Hi there"], False, None)
    assert settled.conversations == [ListedConversation("Hello?", asked.id)]


async def test_an_answer_that_takes_long_to_render_is_shown_less_often(chat: ChatSetup) -> None:
    rates: list[Callable[[], float]] = []
    task: Any = SimpleNamespace(watch=lambda rate, _progress_s: rates.append(rate))
    rendering = LiveRendering()
    chat.service.pages.watch(PAGE, task, rendering)
    assert rates[0]() == pytest.approx(page_sessions.UPDATES_PER_SECOND)
    rendering.pause_s = 0.5
    assert rates[0]() == pytest.approx(2)


@pytest.mark.timeout(30)
async def test_a_page_that_shows_something_else_gets_no_answer_that_was_being_rendered(
    chat: ChatSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = await chat.begun(chat.ask("Hello?"), "Hi ")
    rendered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_rendering: LiveRendering, text: str, finished: bool = False) -> str:
        rendered.set()
        await go_on.wait()
        return f'<div class="rendered-text">{text}</div>'

    monkeypatch.setattr(LiveRendering, "render", slow)
    tab = CollectedUpdates(chat.open(TAB, seen.id))
    chat.backend.say("there")
    await rendered.wait()
    await until(lambda: tab.updates, "the tab shows the conversation")
    for session in (PAGE, TAB):
        chat.service.pages.show(chat.service.pages.next_version(session.id), "")
    before = len(seen.updates), len(tab.updates)
    go_on.set()
    for page, count in zip((seen, tab), before, strict=True):
        assert [update for update in (await page.all())[count:] if update.live] == []
    chat.backend.send(finished())


async def test_each_page_follows_an_answer_once(chat: ChatSetup) -> None:
    seen = await chat.begun(chat.ask("Hello?"), "Hi ")
    assert await CollectedUpdates(chat.service.follow(PAGE, seen.id)).all() == [], "it does already"
    tab = CollectedUpdates(chat.open(TAB, seen.id))
    await until(lambda: tab.updates and texts_shown(tab.updates[-1]) == ["Hello?", "Hi"], "the tab follows")
    chat.backend.send(finished())
    for followed in (seen, tab):
        assert texts_shown((await followed.all())[-1]) == ["Hello?", "Hi"]
    assert await CollectedUpdates(chat.service.follow(PAGE, seen.id)).all() == [], "nothing is under way"


async def test_refresh_changes_nothing_on_a_page_that_shows_something_else(chat: ChatSetup) -> None:
    other = chat.store_conversation("Before?", "Before.")
    seen = await chat.begun(chat.ask("Hello?"), "Hi ")
    id = seen.id
    assert await chat.service.refresh(PAGE, id) == PageUpdate(answering=True), "it is not done"
    assert await chat.service.refresh(PAGE, "") == PageUpdate()
    await CollectedUpdates(chat.open(PAGE, other)).all()
    chat.backend.send(finished())
    await seen.all()
    assert await chat.service.refresh(PAGE, id) == PageUpdate()
    assert texts_shown(await chat.service.refresh(PAGE, other)) == ["Before?", "Before."]
    settling = asyncio.create_task(chat.service.refresh(PAGE, other))
    await asyncio.sleep(0)
    chat.service.pages.show(chat.service.pages.next_version(PAGE.id), "")
    left = chat.service.pages.current(await settling)
    assert (left.history, left.conversation_id, left.answering) == (None, None, None), "it was left meanwhile"


async def test_refresh_of_a_conversation_deleted_in_another_tab_shows_a_new_chat_and_keeps_the_input(chat: ChatSetup) -> None:
    id = chat.store_conversation("Before?", "Before.")
    await CollectedUpdates(chat.open(PAGE, id)).all()
    await chat.service.delete(TAB, id)
    settled = await chat.service.refresh(PAGE, id)
    assert (settled.history, settled.conversation_id, settled.answering, settled.input) == ([], "", False, None)
