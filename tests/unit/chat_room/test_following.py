"""After an answer has begun, a page follows it alone, and settles when it is done."""

from __future__ import annotations

import asyncio

from chat_house import PAGE, TAB, House, Seen, lines
from hand_backend import READ, finished, run, until

from mllama_demo.ui.views import View, guarded_stream


def test_an_answer_goes_on_when_its_first_event_ends_and_is_followed_to_its_end(house: House) -> None:
    async def scene() -> None:
        asked = Seen(house.ask("Hello?"))
        await house.backend.taken()
        house.backend.send(READ)
        house.backend.say("Hi ")
        await until(lambda: asked.views and lines(asked.views[-1])[-1] == "Hi ", "the first word")
        begun = [view for view in asked.views if view.under_way]
        id = asked.views[0].conversation_id or ""
        assert [view.conversations for view in begun] == [[("Hello?", id)]], "once, when it is stored"
        asked.task.cancel()
        followed = Seen(house.room.follow(PAGE, id))
        await until(lambda: followed.views and lines(followed.views[-1]) == ["Hi "], "the page follows")
        house.backend.say("there")
        house.backend.send(finished())
        views = await followed.to_the_end()
        assert views == [View(live=view.live) for view in views], "nothing but the answer"
        assert house.kept(id) == ["Hello?", "Hi there"]
        settled = await house.room.settle(PAGE, id)
        assert (lines(settled), settled.answering, settled.title) == (["Hello?", "Hi there"], False, "Hello?")
        assert settled.conversations == [("Hello?", id)]

    run(scene())


def test_each_page_follows_an_answer_once(house: House) -> None:
    async def scene() -> None:
        seen = await house.begun(house.ask("Hello?"), "Hi ")
        id = seen.views[-1].conversation_id or ""
        first = Seen(house.room.follow(PAGE, id))
        await until(lambda: first.views, "the page follows")
        assert await Seen(house.room.follow(PAGE, id)).to_the_end() == []
        opened = Seen(house.room.open(TAB, id))
        await until(lambda: opened.views, "the tab shows it")
        other = Seen(house.room.follow(TAB, id))
        await until(lambda: other.views, "the tab follows")
        house.backend.send(finished())
        for followed in (first, other):
            assert lines((await followed.to_the_end())[-1]) == ["Hi "]
        assert await Seen(house.room.follow(PAGE, id)).to_the_end() == [], "nothing is under way"
        nothing = guarded_stream(lambda: house.room.follow(PAGE, id))
        assert await Seen(nothing).to_the_end() == [View()], "which leaves the page as it is"

    run(scene())


def test_a_page_that_shows_something_else_by_now_is_left_alone(house: House) -> None:
    other = house.keep("Before?", "Before.")

    async def scene() -> None:
        seen = await house.begun(house.ask("Hello?"), "Hi ")
        id = seen.views[-1].conversation_id or ""
        assert await house.room.settle(PAGE, id) == View(answering=True), "it is not done"
        assert await house.room.settle(PAGE, "") == View()
        await Seen(house.room.open(PAGE, other)).to_the_end()
        house.backend.send(finished())
        await seen.to_the_end()
        assert await house.room.settle(PAGE, id) == View()
        assert lines(await house.room.settle(PAGE, other)) == ["Before?", "Before."]
        settling = asyncio.create_task(house.room.settle(PAGE, other))
        await asyncio.sleep(0)
        await house.room.new(PAGE)
        assert await settling == View(), "it was left meanwhile"

    run(scene())


def test_a_conversation_deleted_in_another_tab_leaves_an_empty_chat_and_what_was_typed(house: House) -> None:
    id = house.keep("Before?", "Before.")

    async def scene() -> View:
        await Seen(house.room.open(PAGE, id)).to_the_end()
        await house.room.delete(TAB, id)
        return await house.room.settle(PAGE, id)

    settled = run(scene())
    assert (settled.history, settled.conversation_id, settled.answering, settled.input) == ([], "", False, None)
