"""An answer under way, with pages that reload, move on or close, and conversations that are deleted meanwhile."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mllama_demo.chat.conversation import Conversation
from mllama_demo.errors import BadRequest
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.ui.page_update import PageUpdate
from tests.support.chat_setup import CHANGES, PAGE, TAB, ChatSetup, Seen, lines, nothing_open, refused, value
from tests.support.manual_backend import READ, finished, until

pytestmark = pytest.mark.timeout(60)


async def test_stop_ends_the_answer_and_keeps_what_was_written(house) -> None:
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    await house.room.stop(PAGE, seen.id)
    last = (await seen.to_the_end())[-1]
    assert (lines(last), last.answering) == (["Hello?", "Well, "], False)
    assert "stopped by hand" in last.history[1]["content"][1]["text"]
    assert house.kept(last.conversation_id) == ["Hello?", "Well, "]


async def test_stop_works_before_the_model_has_said_anything(house) -> None:
    """The page shows the Stop button at once; the first event may take the time of somebody else's prefill."""

    seen = Seen(house.ask("Hello?"))
    await house.backend.taken()
    await until(lambda: seen.views and seen.views[-1].answering, "the page shows Stop")
    await house.room.stop(PAGE, seen.id)
    assert (await seen.to_the_end())[-1].answering is False
    assert house.backend.closed == [house.backend.requests[0].id]


async def test_a_reload_finds_the_answer_before_the_model_has_said_anything(house) -> None:
    seen = Seen(house.ask("Hello?"))
    await house.backend.taken()
    await until(lambda: seen.views, "the question is on the page")
    reloaded = Seen(house.open(TAB, seen.id))
    await until(lambda: reloaded.views, "the page is there again")
    house.backend.send(READ, finished(text="Hi."))
    await seen.to_the_end()
    assert lines((await reloaded.to_the_end())[-1]) == ["Hello?", "Hi."]


async def test_another_tab_finds_the_answer_under_way_and_sees_its_end(house) -> None:
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    tab = Seen(house.open(TAB, seen.id))
    await until(lambda: tab.views and lines(tab.views[-1]) == ["Hello?", "Well, "], "the tab shows the answer")
    assert tab.views[0].answering
    house.backend.say("hello")
    house.backend.send(finished())
    for views in (await seen.to_the_end(), await tab.to_the_end()):
        assert (lines(views[-1]), views[-1].answering) == (["Hello?", "Well, hello"], False)
    assert all(view.input is None for view in tab.views)


async def test_a_page_that_was_closed_gets_no_more_views_and_the_answer_goes_on(house) -> None:
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    id, before = seen.id, len(seen.views)
    house.room.leave(PAGE.session)
    house.backend.say("hello")
    await seen.to_the_end()
    assert seen.views[before:] == [PageUpdate(), PageUpdate()], "nothing of the conversation comes last"
    reloaded = Seen(house.open(PAGE, id))
    await until(lambda: reloaded.views and lines(reloaded.views[-1])[-1] == "Well, hello", "the page is there again")
    house.backend.send(finished())
    await reloaded.to_the_end()
    assert house.kept(id) == ["Hello?", "Well, hello"]


@pytest.mark.parametrize("where", ["another conversation", "a new chat"])
async def test_a_page_that_moved_on_gets_no_more_views_of_the_answer(house, where: str) -> None:
    other = house.keep("Something else?", "Sure.")
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    id, before = seen.id, len(seen.views)
    if where == "a new chat":
        shown = await house.room.new(PAGE)
        assert shown.history == []
    else:
        [shown] = await Seen(house.open(PAGE, other)).to_the_end()
        assert lines(shown) == ["Something else?", "Sure."]
    house.backend.say("hello")
    house.backend.send(finished())
    await seen.to_the_end()
    assert seen.views[before:] == [PageUpdate(), PageUpdate()], "nothing of the conversation comes last"
    await until(lambda: house.kept(id) == ["Hello?", "Well, hello"], "the answer is kept all the same")


async def test_a_question_does_not_take_over_a_page_that_moved_on_before_it_could_begin() -> None:
    class SlowToLoad(ConversationStore):
        def load(self, owner: str, id: str) -> Conversation:
            loading.set()
            assert go_on.wait(20)
            return super().load(owner, id)

    loading, go_on = threading.Event(), threading.Event()
    house = ChatSetup(SlowToLoad(Database("sqlite://")))
    id = house.keep("Hello?", "Hi.")
    go_on.set()
    await Seen(house.open(PAGE, id)).to_the_end()
    go_on.clear()
    loading.clear()
    seen = Seen(house.ask("And now?", conversation_id=id))
    try:
        assert await asyncio.to_thread(loading.wait, 20)
        await house.room.new(PAGE)
    finally:
        go_on.set()
    await house.backend.taken()
    house.backend.send(READ, finished(text="Yes."))
    assert await seen.to_the_end() == [PageUpdate()]
    await until(lambda: house.kept(id)[-1] == "Yes.", "the question is answered all the same")
    assert house.kept(id) == ["Hello?", "Hi.", "And now?", "Yes."]
    house.close()


@pytest.mark.parametrize("verb", ["retry", "edit"])
async def test_an_answer_that_is_asked_for_again_is_shown_wherever_the_page_was(house, verb: str) -> None:
    """The buttons stand beside the conversation, so the page shows it, whatever the server heard of it."""
    id, other = house.keep("Hello?", "Hi."), house.keep("Something else?", "Sure.")
    await Seen(house.open(PAGE, other)).to_the_end()
    streams = {
        "retry": house.retry(id),
        "edit": house.edit(id, 0, "Hello?"),
    }
    views = await house.answered(streams[verb], "Hey.")
    assert {view.conversation_id for view in views} - {None} == {id}
    assert lines(views[-1]) == ["Hello?", "Hey."]


async def test_a_failed_answer_does_not_trouble_a_page_that_moved_on(house) -> None:
    other = house.keep("Something else?", "Sure.")
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    before = len(seen.views)
    await Seen(house.open(PAGE, other)).to_the_end()
    house.backend.send(RuntimeError("broken"))
    await seen.to_the_end()
    assert seen.views[before:] == [PageUpdate(), PageUpdate()], "nothing of the conversation comes last"


@pytest.mark.parametrize("act", CHANGES)
async def test_a_conversation_that_is_being_answered_is_not_changed_from_another_tab(house, act: str) -> None:
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    id = seen.id
    with pytest.raises(BadRequest, match="is being answered already"):
        await CHANGES[act](house, id, TAB)
    house.backend.say("hello")
    house.backend.send(finished())
    assert lines((await seen.to_the_end())[-1]) == house.kept(id) == ["Hello?", "Well, hello"]
    assert len(house.backend.requests) == 1


async def test_a_tab_that_asks_meanwhile_shows_the_answer_under_way_and_keeps_what_was_typed(house) -> None:
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    views, _ = await refused(house.ask("And now?", conversation_id=seen.id, visit=TAB), BadRequest)
    assert (lines(views[-1]), views[-1].answering, views[-1].input) == (["Hello?"], True, value("And now?"))
    followed = Seen(house.room.follow(TAB, seen.id))
    await until(lambda: followed.views and lines(followed.views[-1]) == ["Well, "], "it follows from now on")
    house.backend.send(finished())
    await followed.to_the_end()


async def test_a_conversation_opened_while_it_is_answered_again_has_nothing_to_press(house) -> None:
    id = house.keep("Hello?", "Hi.")
    seen = await house.begun(house.retry(id), "Well, ")
    assert lines(await house.room.open(TAB, id)) == ["Hello?"], "no arrow to what comes later"
    house.backend.send(finished())
    await seen.to_the_end()


async def test_a_conversation_deleted_while_it_is_answered_is_gone_from_the_list(house) -> None:
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    view = await house.room.delete(PAGE, seen.id)
    assert (view.history, view.conversations) == ([], [])
    await seen.to_the_end()
    await until(lambda: house.backend.closed, "the answer has ended")
    assert house.store.list(PAGE.owner) == []


async def test_a_conversation_deleted_in_one_tab_leaves_the_tab_that_watches_its_answer(house) -> None:
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    await house.room.delete(TAB, seen.id)
    assert (await seen.to_the_end())[-1] == nothing_open(input=None), "what is typed there stays"


async def test_an_answer_that_ends_while_its_conversation_is_being_deleted_does_not_bring_it_back() -> None:
    class SlowToDelete(ConversationStore):
        def delete(self, owner: str, id: str) -> None:
            super().delete(owner, id)
            deleted.set()
            assert go_on.wait(20)

    deleted, go_on = threading.Event(), threading.Event()
    house = ChatSetup(SlowToDelete(Database("sqlite://")))
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    deleting = asyncio.create_task(house.room.delete(PAGE, seen.id))
    try:
        assert await asyncio.to_thread(deleted.wait, 20)
        if not house.backend.closed:
            house.backend.send(finished())
        await seen.to_the_end()
    finally:
        go_on.set()
    await deleting
    assert house.store.list(PAGE.owner) == []
    house.close()


async def test_a_conversation_deleted_while_its_answer_is_being_stored_does_not_come_back() -> None:
    class SlowToSave(ConversationStore):
        def save(self, owner: str, conversation: Conversation) -> Conversation:
            if conversation.messages[-1].role == "assistant":
                saving.set()
                assert go_on.wait(20)
            return super().save(owner, conversation)

    saving, go_on = threading.Event(), threading.Event()
    house = ChatSetup(SlowToSave(Database("sqlite://")))
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    house.backend.send(finished())
    try:
        assert await asyncio.to_thread(saving.wait, 20)
        deleting = asyncio.create_task(house.room.delete(PAGE, seen.id))
        await asyncio.sleep(0.1)
        assert not deleting.done(), "it waits for what is being stored, to delete that too"
    finally:
        go_on.set()
    assert (await deleting).conversations == []
    await seen.to_the_end()
    assert house.store.list(PAGE.owner) == []
    house.close()
