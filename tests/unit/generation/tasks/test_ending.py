"""An answer that is stopped, discarded or left: what was written is kept, or surely not."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.sampling import SamplingParams
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from tests.support.answer_tasks import EARLIER, HELLO, ME, begin, done, new_answers, texts, watch
from tests.support.manual_backend import PATIENCE_S, READ, finished, talk, until

pytestmark = pytest.mark.timeout(60)

# For what needs nothing but a few turns of the event loop.
MOMENT_S = 3.0


async def test_stop_keeps_what_was_written(answers, backend, store) -> None:
    live = await begin(answers, backend, EARLIER, "Only ", "this")
    answers.stop(live)
    assert (await done(live)).error is None
    assert texts(store, EARLIER) == ["Hello?", "Hi.", "And now?", "Only this"]
    assert store.load(ME, EARLIER.id).messages[-1].metadata["reason"] == "cancelled"
    assert backend.closed == [backend.requests[0].id]
    assert set(backend.cancelled) == {backend.requests[0].id}, "however often it was said"


async def test_stop_and_discard_of_an_answer_that_is_done_change_nothing(answers, backend, store) -> None:
    live = await begin(answers, backend, HELLO, "Hi.")
    backend.send(finished())
    await done(live)
    before = live.conversation
    again = await begin(answers, backend, live.conversation.add(Message("user", "Again?")), "Yes")
    answers.stop(live)
    await asyncio.wait_for(answers.discard(live), MOMENT_S)
    assert (live.error, live.conversation) == (None, before)
    backend.say(", again.")
    backend.send(finished())
    assert (await done(again)).error is None, "the next answer of the conversation is another one"
    assert texts(store, HELLO) == ["Hello?", "Hi.", "Again?", "Yes, again."]


async def test_a_stop_before_the_request_has_reached_the_backend_is_not_lost(answers, backend) -> None:
    """Building a prompt and decoding a photo take a moment; the Stop button is there already."""

    live = answers.start(ME, HELLO, SamplingParams())
    answers.stop(live)
    await until(lambda: live.done or backend.requests, "the request was given up, or sent")
    if not (live.done or backend.closed):
        backend.send(READ)
    await until(lambda: live.done, "the answer has ended", MOMENT_S)


async def test_a_discarded_answer_leaves_nothing(answers, backend, store) -> None:
    live = await begin(answers, backend, EARLIER, "Only this")
    await answers.discard(live)
    assert live.done
    assert answers.get(live.id) is None
    assert (live.error, live.conversation) == (None, EARLIER)
    assert texts(store, EARLIER) == ["Hello?", "Hi.", "And now?"]
    assert backend.closed == [backend.requests[0].id]


async def test_an_answer_discarded_before_its_first_event_stores_nothing(answers, backend, store) -> None:
    live = answers.start(ME, HELLO, SamplingParams())
    await backend.taken()
    await answers.discard(live)
    assert live.done
    assert store.list(ME) == []


async def test_a_discard_before_the_request_has_reached_the_backend_is_not_lost(answers, backend, store) -> None:
    live = answers.start(ME, HELLO, SamplingParams())
    discarding = asyncio.create_task(answers.discard(live))
    await backend.taken()
    assert backend.cancelled == [live.request_id], "the backend was told before it knew the request"
    backend.send(READ)
    await asyncio.wait_for(discarding, MOMENT_S)
    assert live.done
    assert backend.closed == [live.request_id]
    assert store.list(ME) == []


@pytest.mark.parametrize("role", ["user", "assistant"])
async def test_discard_returns_once_nothing_more_will_be_stored(backend, role: str) -> None:
    """Whoever deletes the conversation then can be sure that it does not come back."""

    class SlowToSave(ConversationStore):
        def save(self, owner: str, conversation: Conversation) -> MessageTree:
            if conversation.messages[-1].role == role:
                saving.set()
                assert go_on.wait(PATIENCE_S)
            return super().save(owner, conversation)

    saving, go_on = threading.Event(), threading.Event()
    store = SlowToSave(Database("sqlite://"))
    answers = new_answers(store, backend)
    live = answers.start(ME, HELLO, SamplingParams())
    await backend.taken()
    backend.send(READ)
    if role == "assistant":
        backend.send(finished(text="Hi."))
    assert await asyncio.to_thread(saving.wait, PATIENCE_S)
    discarding = asyncio.create_task(answers.discard(live))
    await asyncio.sleep(0.1)
    assert not discarding.done()
    go_on.set()
    await discarding
    assert live.done
    store.delete(ME, HELLO.id)
    assert store.list(ME) == []
    store.database.close()


async def test_a_deleted_conversation_does_not_come_back_with_its_answer(answers, backend, store) -> None:
    live = await begin(answers, backend, EARLIER, "Only this")
    store.delete(ME, EARLIER.id)
    await answers.discard(live)
    assert store.list(ME) == []


async def test_an_answer_that_nobody_watches_is_ended_and_kept_as_abandoned(backend, store) -> None:
    live = await begin(new_answers(store, backend, unwatched_seconds=0.05), backend, HELLO, "To nobody")
    assert (await done(live)).error is None
    assert texts(store, HELLO) == ["Hello?", "To nobody"]
    assert store.load(ME, HELLO.id).messages[-1].metadata["reason"] == "abandoned"
    assert backend.closed == [backend.requests[0].id]


async def test_an_answer_whose_watcher_has_left_is_ended(backend, store) -> None:
    live = await begin(new_answers(store, backend, unwatched_seconds=0.05), backend, HELLO, "Wait")
    await watch(live, until_shown="Wait")
    await until(lambda: live.done, "the answer has ended", MOMENT_S)
    assert store.load(ME, HELLO.id).messages[-1].metadata["reason"] == "abandoned"


async def test_an_answer_that_somebody_watches_is_not_ended(backend, store) -> None:
    """Two started together: by the time the unwatched one is given up, its twin would have been too.

    Not given up before the backend knows it: of what it does not know it is told again with the next event, and here is none.
    """
    answers = new_answers(store, backend, unwatched_seconds=0.5)
    watched = answers.start(ME, HELLO, SamplingParams())
    watching = asyncio.create_task(watch(watched))
    await backend.taken()
    for n in range(3):
        alone = answers.start(ME, talk(f"Anybody there? {n}"), SamplingParams())
        await backend.taken()
        await done(alone)
        assert not watched.done
    answers.stop(watched)
    await watching
    assert not watched.abandoned


def test_a_program_that_ends_keeps_what_was_written(answers, backend, store) -> None:
    """asyncio.run cancels what is left when the scene is over, as it does when the server has stopped."""

    async def scene() -> None:
        await begin(answers, backend, EARLIER, "As far ", "as it came")

    asyncio.run(scene())
    assert texts(store, EARLIER) == ["Hello?", "Hi.", "And now?", "As far as it came"]
    assert backend.closed == [backend.requests[0].id]


async def test_a_program_that_ends_before_the_first_event_stores_nothing(answers, backend, store) -> None:
    answers.start(ME, HELLO, SamplingParams())
    await backend.taken()
    assert store.list(ME) == []


def test_a_program_that_ends_while_the_answer_is_being_stored_keeps_it_once(backend) -> None:
    """The writing thread is done and the event loop has not heard of it yet: that is where the cancellation strikes."""

    class CancelledOnSave(ConversationStore):
        def save(self, owner: str, conversation: Conversation) -> MessageTree:
            if conversation.messages[-1].role == "assistant" and not cancelling:
                cancelling.append(True)
                loop.call_soon_threadsafe(cancel_when_written)
            return super().save(owner, conversation)

    cancelling: list[bool] = []
    store = CancelledOnSave(Database("sqlite://"))
    answers = new_answers(store, backend)

    def cancel_when_written() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(live.conversation.messages) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)  # in the event loop, which therefore does not hear of it
        for task in asyncio.all_tasks() - {scene_task}:
            task.cancel()

    async def scene() -> None:
        nonlocal live, loop, scene_task
        scene_task, loop = asyncio.current_task(), asyncio.get_running_loop()
        live = await begin(answers, backend, HELLO, "Once")
        backend.send(finished())
        await done(live)

    live: Any = None
    loop: Any = None
    scene_task: Any = None
    asyncio.run(scene())
    assert texts(store, HELLO) == ["Hello?", "Once"]
    store.database.close()
