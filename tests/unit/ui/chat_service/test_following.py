"""After an answer has begun, a page follows it alone, and settles when it is done."""

from __future__ import annotations

import asyncio

from mllama_demo.ui.page_update import PageUpdate, guarded_stream
from tests.support.chat_setup import PAGE, TAB, ChatSetup, Seen, lines, sampling, value
from tests.support.manual_backend import READ, finished, until


async def test_an_answer_goes_on_when_its_first_event_ends_and_is_followed_to_its_end(house: ChatSetup) -> None:
    asked = Seen(house.room.ask(PAGE, "", value("Hello?"), sampling))
    await house.backend.taken()
    house.backend.send(READ)
    house.backend.say("Hi ")
    views = await asked.to_the_end()
    assert [view.begun for view in views] == [False] * (len(views) - 1) + [True]
    followed = Seen(house.room.follow(PAGE, asked.id))
    await until(lambda: followed.views and lines(followed.views[-1]) == ["Hi "], "the page follows")
    house.backend.say("there")
    house.backend.send(finished())
    views = await followed.to_the_end()
    assert views == [PageUpdate(live=view.live) for view in views], "nothing but the answer"
    assert house.kept(asked.id) == ["Hello?", "Hi there"]
    settled = await house.room.settle(PAGE, asked.id)
    assert (lines(settled), settled.answering, settled.title) == (["Hello?", "Hi there"], False, None)
    assert settled.conversations == [("Hello?", asked.id)]


async def test_each_page_follows_an_answer_once(house: ChatSetup) -> None:
    seen = await house.begun(house.ask("Hello?"), "Hi ")
    assert await Seen(house.room.follow(PAGE, seen.id)).to_the_end() == [], "it does already"
    tab = Seen(house.open(TAB, seen.id))
    await until(lambda: tab.views and lines(tab.views[-1]) == ["Hello?", "Hi "], "the tab follows")
    house.backend.send(finished())
    for followed in (seen, tab):
        assert lines((await followed.to_the_end())[-1]) == ["Hello?", "Hi "]
    assert await Seen(house.room.follow(PAGE, seen.id)).to_the_end() == [], "nothing is under way"
    nothing = guarded_stream(house.room.follow(PAGE, seen.id))
    assert await Seen(nothing).to_the_end() == [PageUpdate()], "which leaves the page as it is"


async def test_a_page_that_shows_something_else_by_now_is_left_alone(house: ChatSetup) -> None:
    other = house.keep("Before?", "Before.")
    seen = await house.begun(house.ask("Hello?"), "Hi ")
    id = seen.id
    assert await house.room.settle(PAGE, id) == PageUpdate(answering=True), "it is not done"
    assert await house.room.settle(PAGE, "") == PageUpdate()
    await Seen(house.open(PAGE, other)).to_the_end()
    house.backend.send(finished())
    await seen.to_the_end()
    assert await house.room.settle(PAGE, id) == PageUpdate()
    assert lines(await house.room.settle(PAGE, other)) == ["Before?", "Before."]
    settling = asyncio.create_task(house.room.settle(PAGE, other))
    await asyncio.sleep(0)
    house.room.pages.show(PAGE.session, "")
    assert await settling == PageUpdate(), "it was left meanwhile"


async def test_a_conversation_deleted_in_another_tab_leaves_an_empty_chat_and_what_was_typed(house: ChatSetup) -> None:
    id = house.keep("Before?", "Before.")
    await Seen(house.open(PAGE, id)).to_the_end()
    await house.room.delete(TAB, id)
    settled = await house.room.settle(PAGE, id)
    assert (settled.history, settled.conversation_id, settled.answering, settled.input) == ([], "", False, None)
