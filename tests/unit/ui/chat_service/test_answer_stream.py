"""The cost of a question: how often its message tree is read, and how many generators an update passes."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncGenerator
from types import FrameType
from typing import Any

import pytest

from mllama_demo.config.branding import load_brand
from mllama_demo.config.settings import Settings
from mllama_demo.generation.tasks import AnswerTask
from mllama_demo.storage.stores import Stores
from mllama_demo.ui.chat_page import ChatPage
from mllama_demo.ui.gradio_patches.generator_end import UNCHANGED
from tests.support.chat_setup import PAGE, REQUEST, TAB, ChatSetup, CollectedUpdates, texts_shown
from tests.support.manual_backend import READ, finished
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def reads(chat: ChatSetup, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the message trees that were read from the database."""
    found: list[str] = []
    read = chat.store.tree

    def counted(owner: str, id: str) -> Any:
        found.append(id)
        return read(owner, id)

    monkeypatch.setattr(chat.store, "tree", counted)
    return found


@pytest.fixture
def page(chat: ChatSetup, no_server: None) -> ChatPage:
    settings = Settings(kiosk=True)  # which has no sampling controls
    page = ChatPage(settings, chat.service, Stores.of(chat.store), load_brand(settings))
    page.build()
    return page


@pytest.mark.parametrize("event", ["ask", "retry", "edit"])
async def test_a_question_and_its_answer_read_the_message_tree_once(chat: ChatSetup, reads: list[str], event: str) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    updates = {
        "ask": lambda: chat.ask("And now?", conversation_id=id),
        "retry": lambda: chat.retry(id),
        "edit": lambda: chat.edit(id, 0, "Good evening?"),
    }[event]()
    last = (await chat.answered(updates, "Yes."))[-1]
    assert reads == [id]
    assert texts_shown(last)[-1] == "Yes."


async def test_a_new_conversation_is_not_read_from_the_database(chat: ChatSetup, reads: list[str]) -> None:
    await chat.answered(chat.ask("Hello?"), "Hi.")
    assert reads == []


@pytest.mark.parametrize("change", ["rename", "select_version", "undo", "delete", "ask"])
async def test_a_page_reads_a_conversation_that_changed_after_its_answer(chat: ChatSetup, change: str) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    begun = CollectedUpdates(chat.begin(chat.service.questions.retry(PAGE, id)))
    await chat.backend.taken()
    chat.backend.send(READ)
    await begun.all()
    followed = CollectedUpdates(chat.service.follow(PAGE, id))
    chat.backend.send(finished(text="Hey."))
    await followed.all()
    if change == "rename":
        await chat.service.rename(TAB, id, "Greetings")
    elif change == "select_version":
        await chat.service.select_version(TAB, id, 1)
    elif change == "undo":
        await chat.service.undo(TAB, id)
    elif change == "delete":
        await chat.service.delete(TAB, id)
    else:
        await chat.answered(chat.ask("And now?", conversation_id=id, session=TAB), "Yes.")
    refreshed = await chat.service.refresh(PAGE, id)
    expected = [] if change == "delete" else chat.stored_texts(id)
    assert texts_shown(refreshed) == expected


def async_generators(frame: FrameType | None) -> list[str]:
    """The asynchronous generators on the call stack, the innermost first."""
    found = []
    while frame is not None:
        if frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR:
            found.append(frame.f_code.co_name)
        frame = frame.f_back
    return found


async def test_an_update_passes_at_most_four_generators_and_the_last_one_changes_nothing(
    chat: ChatSetup, page: ChatPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks: list[list[str]] = []
    watch = AnswerTask.watch

    async def recorded(self: AnswerTask, *args: Any) -> Any:
        async for _ in watch(self, *args):
            stacks.append(async_generators(sys._getframe()))
            yield

    monkeypatch.setattr(AnswerTask, "watch", recorded)
    asking = asyncio.create_task(collected(page._ask(REQUEST, "", {"text": "Hello?", "files": []}, "newest")))
    await chat.backend.taken()
    chat.backend.send(READ)
    *_, begun, last = await asking
    assert last == {page.status: UNCHANGED}
    id = begun[page.conversation_id]
    following = asyncio.create_task(collected(page._follow(id, REQUEST)))
    await until(lambda: any("_follow" in stack for stack in stacks), "the page follows the answer")
    chat.backend.send(finished(text="Hi."))
    assert (await following)[-1] == UNCHANGED
    asked, followed = ("recorded", "answer", "_answer", "_ask"), ("recorded", "follow", "_follow")
    assert {tuple(stack) for stack in stacks} == {asked, followed}


async def collected(values: AsyncGenerator[Any, None]) -> list[Any]:
    return [value async for value in values]
