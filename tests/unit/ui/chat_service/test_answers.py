# pyright: reportReturnType=false
"""An answer that is being written, while pages reload, open something else or close, and conversations are deleted."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mllama_demo.chat.conversation import Conversation
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.errors import BadRequest
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.ui.page_update import PageUpdate
from tests.support.chat_setup import (
    CHANGES,
    PAGE,
    TAB,
    ChatSetup,
    CollectedUpdates,
    new_chat,
    refused_updates,
    texts_shown,
    value,
)
from tests.support.manual_backend import READ, finished
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)


async def test_stop_ends_the_answer_and_keeps_what_was_written(chat) -> None:
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    await chat.service.stop(PAGE, seen.id)
    last = (await seen.all())[-1]
    assert (texts_shown(last), last.answering) == (["Hello?", "Well,"], False)
    assert "stopped by hand" in last.history[1]["content"][1]["text"]
    assert chat.stored_texts(last.conversation_id) == ["Hello?", "Well, "]


async def test_stop_works_before_the_first_token(chat) -> None:
    """The page shows Stop at once, but the first event of the backend may come much later."""

    seen = CollectedUpdates(chat.ask("Hello?"))
    await chat.backend.taken()
    await until(lambda: seen.updates and seen.updates[-1].answering, "the page shows Stop")
    await chat.service.stop(PAGE, seen.id)
    assert (await seen.all())[-1].answering is False
    assert chat.backend.closed == [chat.backend.requests[0].id]


async def test_a_reload_finds_the_answer_before_the_first_token(chat) -> None:
    seen = CollectedUpdates(chat.ask("Hello?"))
    await chat.backend.taken()
    await until(lambda: seen.updates, "the question is on the page")
    reloaded = CollectedUpdates(chat.open(TAB, seen.id))
    await until(lambda: reloaded.updates, "the page is there again")
    chat.backend.send(READ, finished(text="Hi."))
    await seen.all()
    assert texts_shown((await reloaded.all())[-1]) == ["Hello?", "Hi."]


async def test_another_tab_follows_the_answer_to_its_end(chat) -> None:
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    tab = CollectedUpdates(chat.open(TAB, seen.id))
    await until(lambda: tab.updates and texts_shown(tab.updates[-1]) == ["Hello?", "Well,"], "the tab shows the answer")
    assert tab.updates[0].answering
    chat.backend.say("hello")
    chat.backend.send(finished())
    for views in (await seen.all(), await tab.all()):
        assert (texts_shown(views[-1]), views[-1].answering) == (["Hello?", "Well, hello"], False)
    assert all(view.input is None for view in tab.updates)


async def test_a_closed_page_gets_no_updates_and_the_answer_goes_on(chat) -> None:
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    await until(lambda: not seen.updates[-1].begun, "the page follows")
    id, before = seen.id, len(seen.updates)
    chat.service.close_page(PAGE.id)
    chat.backend.say("hello")
    await seen.all()
    assert seen.updates[before:] == [PageUpdate()], "nothing of the conversation comes last"
    reloaded = CollectedUpdates(chat.open(PAGE, id))
    await until(lambda: reloaded.updates and texts_shown(reloaded.updates[-1])[-1] == "Well, hello", "the page is there again")
    chat.backend.send(finished())
    await reloaded.all()
    assert chat.stored_texts(id) == ["Hello?", "Well, hello"]


@pytest.mark.parametrize("where", ["another conversation", "a new chat"])
async def test_a_page_that_shows_something_else_gets_no_updates_of_the_answer(chat, where: str) -> None:
    other = chat.store_conversation("Something else?", "Sure.")
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    await until(lambda: not seen.updates[-1].begun, "the page follows")
    id, before = seen.id, len(seen.updates)
    if where == "a new chat":
        shown = await chat.service.new(PAGE)
        assert shown.history == []
    else:
        [shown] = await CollectedUpdates(chat.open(PAGE, other)).all()
        assert texts_shown(shown) == ["Something else?", "Sure."]
    chat.backend.say("hello")
    chat.backend.send(finished())
    await seen.all()
    assert seen.updates[before:] == [PageUpdate()], "nothing of the conversation comes last"
    await until(lambda: chat.stored_texts(id) == ["Hello?", "Well, hello"], "the answer is kept all the same")


async def test_a_question_does_not_replace_what_the_page_opened_meanwhile() -> None:
    class SlowToLoad(ConversationStore):
        def tree(self, owner: str, id: str) -> MessageTree:
            loading.set()
            assert go_on.wait(20)
            return super().tree(owner, id)

    loading, go_on = threading.Event(), threading.Event()
    chat = ChatSetup(SlowToLoad(Database("sqlite://")))
    id = chat.store_conversation("Hello?", "Hi.")
    go_on.set()
    await CollectedUpdates(chat.open(PAGE, id)).all()
    go_on.clear()
    loading.clear()
    seen = CollectedUpdates(chat.ask("And now?", conversation_id=id))
    try:
        assert await asyncio.to_thread(loading.wait, 20)
        await chat.service.new(PAGE)
    finally:
        go_on.set()
    await chat.backend.taken()
    chat.backend.send(READ, finished(text="Yes."))
    assert await seen.all() == []
    await until(lambda: chat.stored_texts(id)[-1] == "Yes.", "the question is answered all the same")
    assert chat.stored_texts(id) == ["Hello?", "Hi.", "And now?", "Yes."]
    chat.close()


@pytest.mark.parametrize("verb", ["retry", "edit"])
async def test_a_retry_or_edit_shows_its_conversation_on_the_page(chat, verb: str) -> None:
    """The buttons stand beside the conversation, so the page shows it, whatever the server knew."""
    id, other = chat.store_conversation("Hello?", "Hi."), chat.store_conversation("Something else?", "Sure.")
    await CollectedUpdates(chat.open(PAGE, other)).all()
    streams = {
        "retry": lambda: chat.retry(id),
        "edit": lambda: chat.edit(id, 0, "Hello?"),
    }
    views = await chat.answered(streams[verb](), "Hey.")
    assert {view.conversation_id for view in views} - {None} == {id}
    assert texts_shown(views[-1]) == ["Hello?", "Hey."]


async def test_a_failed_answer_is_not_reported_on_a_page_that_shows_something_else(chat) -> None:
    other = chat.store_conversation("Something else?", "Sure.")
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    await until(lambda: not seen.updates[-1].begun, "the page follows")
    before = len(seen.updates)
    await CollectedUpdates(chat.open(PAGE, other)).all()
    chat.backend.send(RuntimeError("broken"))
    await seen.all()
    assert seen.updates[before:] == [PageUpdate()], "nothing of the conversation comes last"


@pytest.mark.parametrize("act", CHANGES)
async def test_a_conversation_that_is_being_answered_is_not_changed_from_another_tab(chat, act: str) -> None:
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    id = seen.id
    with pytest.raises(BadRequest, match="is being answered already"):
        await CHANGES[act](chat, id, TAB)
    chat.backend.say("hello")
    chat.backend.send(finished())
    assert texts_shown((await seen.all())[-1]) == chat.stored_texts(id) == ["Hello?", "Well, hello"]
    assert len(chat.backend.requests) == 1


async def test_a_question_from_a_second_tab_is_refused_and_the_tab_shows_the_answer_in_progress(chat) -> None:
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    views, _ = await refused_updates(chat.ask("And now?", conversation_id=seen.id, session=TAB), BadRequest)
    assert (texts_shown(views[-1]), views[-1].answering, views[-1].input) == (["Hello?"], True, value("And now?"))
    followed = CollectedUpdates(chat.service.follow(TAB, seen.id))
    await until(lambda: followed.updates and texts_shown(followed.updates[-1]) == ["Well,"], "it follows from now on")
    chat.backend.send(finished())
    await followed.all()


async def test_a_conversation_opened_during_a_retry_has_no_version_arrows(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    seen = await chat.begun(chat.retry(id), "Well, ")
    assert texts_shown(await chat.service.open(TAB, id)) == ["Hello?"], "no arrow to what comes later"
    chat.backend.send(finished())
    await seen.all()


async def test_a_conversation_deleted_while_it_is_answered_is_gone_from_the_list(chat) -> None:
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    view = await chat.service.delete(PAGE, seen.id)
    assert (view.history, view.conversations) == ([], [])
    await seen.all()
    await until(lambda: chat.backend.closed, "the answer has ended")
    assert chat.store.list(PAGE.owner) == []


async def test_deleting_a_conversation_empties_the_tab_that_follows_its_answer(chat) -> None:
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    await chat.service.delete(TAB, seen.id)
    assert (await seen.all())[-1] == new_chat(), "what is typed there stays"


async def test_an_answer_that_ends_while_its_conversation_is_being_deleted_does_not_bring_it_back() -> None:
    class SlowToDelete(ConversationStore):
        def delete(self, owner: str, id: str) -> None:
            super().delete(owner, id)
            deleted.set()
            assert go_on.wait(20)

    deleted, go_on = threading.Event(), threading.Event()
    chat = ChatSetup(SlowToDelete(Database("sqlite://")))
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    deleting = asyncio.create_task(chat.service.delete(PAGE, seen.id))
    try:
        assert await asyncio.to_thread(deleted.wait, 20)
        if not chat.backend.closed:
            chat.backend.send(finished())
        await seen.all()
    finally:
        go_on.set()
    await deleting
    assert chat.store.list(PAGE.owner) == []
    chat.close()


async def test_a_conversation_deleted_while_its_answer_is_being_stored_does_not_come_back() -> None:
    class SlowToSave(ConversationStore):
        def save(self, owner: str, conversation: Conversation, begun: MessageTree | None = None) -> Conversation:
            if conversation.messages[-1].role == "assistant":
                saving.set()
                assert go_on.wait(20)
            return super().save(owner, conversation, begun)

    saving, go_on = threading.Event(), threading.Event()
    chat = ChatSetup(SlowToSave(Database("sqlite://")))
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    chat.backend.send(finished())
    try:
        assert await asyncio.to_thread(saving.wait, 20)
        deleting = asyncio.create_task(chat.service.delete(PAGE, seen.id))
        await asyncio.sleep(0.1)
        assert not deleting.done(), "it waits for what is being stored, to delete that too"
    finally:
        go_on.set()
    assert (await deleting).conversations == []
    await seen.all()
    assert chat.store.list(PAGE.owner) == []
    chat.close()
