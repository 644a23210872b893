# pyright: reportArgumentType=false
"""The question limit of a kiosk: refused questions do not count, and simultaneous questions do not exceed it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from mllama_demo.config.branding import load_brand
from mllama_demo.config.settings import Settings
from mllama_demo.errors import BackendUnavailable
from mllama_demo.generation.service import GenerationService
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.stores import Stores
from mllama_demo.ui.chat_page import ChatPage
from mllama_demo.ui.page_update import NO_INPUT, UNEXPECTED
from mllama_demo.ui.question_edit import QuestionEdit
from tests.support.chat_setup import REQUEST, new_service
from tests.support.code_points import CodePoints
from tests.support.manual_backend import READ, ManualBackend, finished
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(180)

ENOUGH = "You have asked 2 questions"


class Screen:
    """A kiosk where a visitor may ask two questions, and the notices on it."""

    def __init__(self, store: ConversationStore) -> None:
        settings = Settings(kiosk=True, kiosk_messages_per_hour=2)
        self.backend = ManualBackend()
        self.service = new_service(GenerationService(self.backend, CodePoints(), store, settings), store)
        self.page = ChatPage(settings, self.service, Stores.of(store), load_brand(settings))
        self.page.build()
        self.notices: list[str] = []

    async def ask(self, text: str, conversation_id: str = "") -> None:
        """Sends a question; returns when it is refused or its answer has begun."""
        await to_the_end(self.page._ask(REQUEST, conversation_id, {"text": text, "files": []}, "newest"))

    async def answered(self, text: str) -> None:
        asking = asyncio.create_task(self.ask(text))
        await self.backend.taken()
        self.backend.send(READ)
        await asking
        self.backend.send(finished(text="Yes."))
        await until(lambda: not self.service._answer_tasks._by_conversation, "the answer is over")

    async def refused(self, text: str, why: str, conversation_id: str = "") -> None:
        await self.ask(text, conversation_id)
        assert why in self.notices.pop()


async def to_the_end(updates: AsyncGenerator[Any, None]) -> None:
    async for _ in updates:
        pass


@pytest.fixture
def screen(store: ConversationStore, no_server: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    screen = Screen(store)
    monkeypatch.setattr(gr, "Warning", lambda message, **_: screen.notices.append(message))
    yield screen
    screen.service.close()


async def test_a_refused_question_does_not_count(screen: Screen) -> None:
    await screen.refused("", "Type a question")
    screen.backend.refusal = BackendUnavailable("The model is still loading.")
    await screen.ask("What is it?")
    await to_the_end(screen.page._retry(REQUEST, "never stored"))
    assert "no conversation" in screen.notices.pop()
    edit: Any = SimpleNamespace(_data={"number": 0, "text": "And this?", "image": "keep"})
    [*_, refusal] = [updates async for updates in screen.page._edit(REQUEST, edit, "never stored", NO_INPUT)]
    assert "no conversation" in refusal[screen.page.edit_refusal]
    screen.backend.refusal = None
    await screen.answered("What is it?")
    await screen.answered("And now?")
    await screen.refused("And then?", ENOUGH)
    assert screen.notices == []


async def test_continue_counts_as_a_question_and_has_the_values_of_the_deployment(
    screen: Screen, store: ConversationStore
) -> None:
    screen.backend.info = replace(screen.backend.info, capabilities=frozenset({"images", "continue"}))
    asking = asyncio.create_task(screen.ask("A story?"))
    await screen.backend.taken()
    screen.backend.send(READ)
    await asking
    screen.backend.send(finished("max_tokens", text="Once upon"))
    await until(lambda: not screen.service._answer_tasks._by_conversation, "the answer is over")
    [listed] = store.list(screen.page._kiosk.session_of(REQUEST).owner)
    going_on = asyncio.create_task(to_the_end(screen.page._continue(REQUEST, listed.id, "values of no kiosk")))
    request = await screen.backend.taken()
    assert request.answered == len("Once upon")
    assert request.sampling.max_tokens == screen.page._settings.max_tokens
    screen.backend.send(READ)
    await going_on
    screen.backend.send(finished(text=" a time."))
    await until(lambda: not screen.service._answer_tasks._by_conversation, "the answer is over")
    await screen.refused("And then?", ENOUGH, listed.id)


async def test_a_question_while_an_answer_is_being_written_does_not_count(screen: Screen, store: ConversationStore) -> None:
    asking = asyncio.create_task(screen.ask("What is it?"))
    await screen.backend.taken()
    screen.backend.send(READ)
    await asking
    [listed] = store.list(screen.page._kiosk.session_of(REQUEST).owner)
    for _ in range(3):
        await screen.refused("And now?", "being answered already", listed.id)
    screen.backend.send(finished(text="A dog."))
    await until(lambda: not screen.service._answer_tasks._by_conversation, "the answer is over")
    await screen.answered("And now?")
    await screen.refused("And then?", ENOUGH)


async def test_questions_sent_at_the_same_time_do_not_exceed_the_limit(screen: Screen) -> None:
    burst = [asyncio.create_task(screen.ask(f"What is {n}?")) for n in range(5)]
    await until(lambda: len(screen.backend.requests) == 2 and len(screen.notices) == 3, "all have been heard")
    assert all(ENOUGH in notice for notice in screen.notices)
    for request in screen.backend.requests:
        screen.backend.send_to(request.id, READ, finished(text="Yes."))
    await asyncio.gather(*burst)
    assert len(screen.backend.requests) == 2


async def test_a_question_refused_after_a_reset_changes_nothing_for_the_next_visitor(screen: Screen) -> None:
    asking = asyncio.create_task(screen.ask("What is it?"))
    await screen.backend.taken()
    screen.page._kiosk.reset(REQUEST)
    screen.backend.send(BackendUnavailable("The model has stopped."))
    await asking
    await screen.answered("What is it?")
    await screen.answered("And now?")
    await screen.refused("And then?", ENOUGH)


async def refusal_of_edit(screen: Screen, conversation_id: str) -> str:
    """Why the editor of the first question is told that its edit was not asked."""
    edit: Any = SimpleNamespace(_data={"number": 0, "text": "And this?", "image": "keep"})
    [*_, refusal] = [updates async for updates in screen.page._edit(REQUEST, edit, conversation_id, NO_INPUT)]
    return refusal[screen.page.edit_refusal]


async def test_the_editor_is_told_of_the_limit_and_of_an_unexpected_failure(
    screen: Screen, store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await screen.answered("What is it?")
    [listed] = store.list(screen.page._kiosk.session_of(REQUEST).owner)

    def fails(*_: object) -> None:
        raise RuntimeError("no room at /srv/data")

    with monkeypatch.context() as broken:
        broken.setattr(QuestionEdit, "apply", fails)
        assert (await refusal_of_edit(screen, listed.id)).endswith(UNEXPECTED)
    await screen.answered("And now?")
    assert ENOUGH in await refusal_of_edit(screen, listed.id)
    assert screen.notices == []


async def test_a_failure_while_an_address_is_fetched_is_a_sentence(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(url: str) -> str:
        raise RuntimeError("no room at /srv/data")

    controls = screen.page._image_controls
    monkeypatch.setattr(controls._attachments, "fetch", fails)
    refusal = f'<p role="alert">{UNEXPECTED}</p>'
    assert await controls._fetch("https://example.com/a.png") == (None, "https://example.com/a.png", refusal)
