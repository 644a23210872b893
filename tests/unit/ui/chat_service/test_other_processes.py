"""A page opens a conversation whose answer another process writes, or was writing when it ended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from mllama_demo.storage import drafts
from mllama_demo.ui import chat_service
from tests.support.chat_setup import PAGE, TAB, ChatSetup, CollectedUpdates, metadata_shown, new_service, texts_shown
from tests.support.manual_backend import finished
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_service, "REFRESH_INTERVAL_S", 0.01)


@pytest.fixture
def restarted(chat: ChatSetup) -> Iterator[ChatSetup]:
    """Another process with the database of `chat`."""
    other = ChatSetup(chat.store)
    other.service.close()
    other.service = new_service(other.generation, chat.store)
    yield other
    other.service.close()


async def drafted(chat: ChatSetup) -> CollectedUpdates:
    """A page of `chat` with the answer "Hi ", of which a draft is stored."""
    seen = await chat.begun(chat.ask("Hello?"), "Hi ")
    stored = drafts.Drafts(chat.store)
    await until(lambda: stored.get(PAGE.owner, seen.id) is not None, "the draft is stored")
    return seen


@pytest.mark.slow
async def test_the_page_shows_the_draft_and_then_the_whole_answer(chat: ChatSetup, restarted: ChatSetup) -> None:
    seen = await drafted(chat)
    page = CollectedUpdates(restarted.open(TAB, seen.id))
    await until(lambda: page.updates and texts_shown(page.updates[-1]) == ["Hello?", "Hi"], "the draft is shown")
    assert page.updates[0].answering
    chat.backend.say("there")
    chat.backend.send(finished())
    await seen.all()
    last = (await page.all())[-1]
    assert (texts_shown(last), last.answering) == (["Hello?", "Hi there"], False)


@pytest.mark.slow
async def test_a_page_that_opens_soon_after_a_crash_gets_the_text_so_far(
    chat: ChatSetup, restarted: ChatSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = await drafted(chat)
    monkeypatch.setattr(chat.service._answer_tasks._drafts, "put", lambda *_: None)  # as if the process had ended
    page = CollectedUpdates(restarted.open(TAB, seen.id))
    await until(lambda: page.updates and texts_shown(page.updates[-1]) == ["Hello?", "Hi"], "the draft is shown")
    monkeypatch.setattr(drafts, "LIFETIME", timedelta(0))
    last = (await page.all())[-1]
    assert (texts_shown(last), last.answering) == (["Hello?", "Hi"], False)
    assert "cut off" in metadata_shown(last)
    chat.backend.send(finished())


@pytest.mark.slow
async def test_a_page_that_shows_something_else_does_not_wait_any_more(chat: ChatSetup, restarted: ChatSetup) -> None:
    seen = await drafted(chat)
    page = CollectedUpdates(restarted.open(TAB, seen.id))
    await until(lambda: page.updates and texts_shown(page.updates[-1]) == ["Hello?", "Hi"], "the draft is shown")
    restarted.service.pages.show(restarted.service.pages.next_version(TAB.id), "")
    await page.all()
    chat.backend.send(finished())


@pytest.mark.slow
async def test_a_complete_answer_has_no_draft_for_the_process_that_wrote_it(chat: ChatSetup) -> None:
    seen = await drafted(chat)
    chat.backend.send(finished())
    await seen.all()
    [opened] = [update async for update in chat.open(TAB, seen.id)]
    assert (texts_shown(opened), opened.answering) == (["Hello?", "Hi"], False)
