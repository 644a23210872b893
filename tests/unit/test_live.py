"""Answers under way belong to their conversation: pages come and go, and what was written is kept, or surely not."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import aclosing
from typing import Any

import pytest
from hand_backend import PATIENCE_S, READ, CodePoints, HandBackend, finished, run, talk, until

from mllama_demo.answer import Answerer
from mllama_demo.backend.base import QueueEvent, TokenEvent
from mllama_demo.config import Settings
from mllama_demo.conversation import Conversation, Message
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, DemoError, PromptTooLong
from mllama_demo.live import LiveAnswer, LiveAnswers
from mllama_demo.sampling import SamplingParams
from mllama_demo.store import Store

pytestmark = pytest.mark.timeout(60)
# For what needs nothing but a few turns of the event loop.
MOMENT_S = 3.0
OFTEN = 1000.0  # looks a second: nearly every change is seen


@pytest.fixture
def backend() -> HandBackend:
    return HandBackend()


@pytest.fixture
def answers(store: Store, backend: HandBackend) -> LiveAnswers:
    return new_answers(store, backend)


def new_answers(store: Store, backend: HandBackend, **options: Any) -> LiveAnswers:
    return LiveAnswers(Answerer(backend, CodePoints(), store, Settings()), store, **options)  # type: ignore[arg-type]


ME = "me"
HELLO = talk("Hello?")
EARLIER = talk("Hello?", "Hi.", "And now?")


def texts(store: Store, conversation: Conversation) -> list[str]:
    """What the store holds of it."""
    return [message.text for message in store.load(ME, conversation.id).messages]


def shown(live: LiveAnswer) -> str:
    return live.answer.text if live.answer else ""


async def watch(live: LiveAnswer, until_shown: str | None = None) -> str:
    """Watches until that text is there, or to the end; what was seen last."""
    async with aclosing(live.watch(OFTEN)) as moments:
        async for _ in moments:
            if until_shown is not None and shown(live) == until_shown:
                break
    return shown(live)


async def begin(answers: LiveAnswers, backend: HandBackend, conversation: Conversation, *said: str) -> LiveAnswer:
    """An answer under way that has said something already."""
    live = answers.start(ME, conversation, SamplingParams())
    await backend.taken()
    backend.send(READ)
    backend.say(*said)
    await until(lambda: live.answer is not None and shown(live) == "".join(said), "the first words")
    return live


async def done(live: LiveAnswer) -> LiveAnswer:
    await until(lambda: live.done, "the answer is done")
    return live


# --- watching ------------------------------------------------------------------------------------------------------------


def test_a_finished_answer_is_kept_with_its_figures(answers, backend, store) -> None:
    async def scene() -> LiveAnswer:
        live = await begin(answers, backend, HELLO, "Hi ", "there")
        backend.send(finished(text="!"))
        return await done(live)

    live = run(scene())
    assert live.error is None
    assert [message.text for message in live.conversation.messages] == texts(store, HELLO)
    question, answer = live.conversation.messages
    assert (question, answer.role, answer.text) == (HELLO.messages[0], "assistant", "Hi there!")
    assert (answer.facts["reason"], answer.facts["completion_tokens"], answer.facts["ttft_s"]) == ("end_of_turn", 3, 1.5)


def test_the_question_is_stored_as_soon_as_the_backend_took_the_request(answers, backend, store) -> None:
    async def scene() -> None:
        answers.start(ME, HELLO, SamplingParams())
        await backend.taken()
        assert store.list(ME) == []
        backend.send(QueueEvent(1, None))
        await until(lambda: store.list(ME), "the conversation is in the list")
        assert texts(store, HELLO) == ["Hello?"]

    run(scene())


def test_an_answer_goes_on_while_its_watcher_is_away(answers, backend) -> None:
    async def scene() -> None:
        live = await begin(answers, backend, HELLO, "One")
        assert await watch(live, until_shown="One") == "One"
        backend.say(", two")
        await until(lambda: shown(live) == "One, two", "the answer grows unwatched")
        assert await watch(live, until_shown="One, two") == "One, two"
        coming = asyncio.create_task(watch(live))
        backend.say(", three")
        backend.send(finished())
        assert await coming == "One, two, three"

    run(scene())


def test_a_second_watcher_sees_the_same(answers, backend) -> None:
    async def scene() -> list[str]:
        live = await begin(answers, backend, HELLO, "One")
        watching = [asyncio.create_task(watch(live, until_shown="One, two")) for _ in range(2)]
        backend.say(", two")
        assert await asyncio.gather(*watching) == ["One, two"] * 2
        watching = [asyncio.create_task(watch(live)) for _ in range(2)]
        await until(lambda: live.watchers == 2, "both watch")
        backend.say(", three")
        backend.send(finished())
        return await asyncio.gather(*watching)

    assert run(scene()) == ["One, two, three"] * 2


def test_who_watches_a_finished_answer_gets_one_look_and_no_more(answers, backend) -> None:
    async def scene() -> int:
        live = await begin(answers, backend, HELLO, "One")
        backend.send(finished())
        await done(live)
        return len([None async for _ in live.watch(OFTEN)])

    assert run(scene()) == 1


def test_who_shows_how_long_it_takes_is_woken_while_nothing_happens(answers, backend) -> None:
    async def scene() -> None:
        live = await begin(answers, backend, HELLO, "One")
        looks = 0
        async with aclosing(live.watch(OFTEN, at_least_every_s=0.01)) as moments:
            async for _ in moments:
                looks += 1
                if looks == 3:
                    break
        backend.send(finished())
        await done(live)

    run(scene())


def test_an_answer_is_found_while_it_is_under_way_and_not_after(answers, backend) -> None:
    async def scene() -> None:
        assert answers.get(HELLO.id) is None
        live = await begin(answers, backend, HELLO, "One")
        assert answers.get(HELLO.id) is live
        assert live.owner == ME
        assert answers.get("another") is None
        backend.send(finished())
        await done(live)
        assert answers.get(HELLO.id) is None

    run(scene())


def test_a_second_answer_in_the_same_conversation_is_refused_until_the_first_is_done(answers, backend, store) -> None:
    async def scene() -> None:
        live = await begin(answers, backend, HELLO, "One")
        with pytest.raises(BadRequest, match="is being answered already"):
            answers.start(ME, HELLO.add(Message("user", "Hello??")), SamplingParams())
        other = await begin(answers, backend, talk("Something else?"), "Two")
        backend.send(finished())
        await done(other)
        assert len(backend.requests) == 2
        answers.stop(live)
        await done(live)
        again = await begin(answers, backend, live.conversation.add(Message("user", "Again?")), "Three")
        backend.send(finished())
        await done(again)

    run(scene())
    assert texts(store, HELLO) == ["Hello?", "One", "Again?", "Three"]


# --- ending early --------------------------------------------------------------------------------------------------------


def test_stop_keeps_what_was_written(answers, backend, store) -> None:
    async def scene() -> None:
        live = await begin(answers, backend, EARLIER, "Only ", "this")
        answers.stop(live)
        assert (await done(live)).error is None

    run(scene())
    assert texts(store, EARLIER) == ["Hello?", "Hi.", "And now?", "Only this"]
    assert store.load(ME, EARLIER.id).messages[-1].facts["reason"] == "cancelled"
    assert backend.closed == [backend.requests[0].id]
    assert set(backend.cancelled) == {backend.requests[0].id}, "however often it was said"


def test_stop_and_discard_of_an_answer_that_is_done_change_nothing(answers, backend, store) -> None:
    async def scene() -> None:
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

    run(scene())
    assert texts(store, HELLO) == ["Hello?", "Hi.", "Again?", "Yes, again."]


def test_a_stop_before_the_request_has_reached_the_backend_is_not_lost(answers, backend) -> None:
    """Building a prompt and decoding a photo take a moment; the Stop button is there already."""

    async def scene() -> None:
        live = answers.start(ME, HELLO, SamplingParams())
        answers.stop(live)
        await until(lambda: live.done or backend.requests, "the request was given up, or sent")
        if not (live.done or backend.closed):
            backend.send(READ)
        await until(lambda: live.done, "the answer has ended", MOMENT_S)

    run(scene())


def test_a_discarded_answer_leaves_nothing(answers, backend, store) -> None:
    async def scene() -> LiveAnswer:
        live = await begin(answers, backend, EARLIER, "Only this")
        await answers.discard(live)
        assert live.done
        assert answers.get(live.id) is None
        return live

    live = run(scene())
    assert (live.error, live.conversation) == (None, EARLIER)
    assert texts(store, EARLIER) == ["Hello?", "Hi.", "And now?"]
    assert backend.closed == [backend.requests[0].id]


def test_an_answer_discarded_before_its_first_event_stores_nothing(answers, backend, store) -> None:
    async def scene() -> None:
        live = answers.start(ME, HELLO, SamplingParams())
        await backend.taken()
        await answers.discard(live)
        assert live.done

    run(scene())
    assert store.list(ME) == []


def test_a_discard_before_the_request_has_reached_the_backend_is_not_lost(answers, backend, store) -> None:
    async def scene() -> None:
        live = answers.start(ME, HELLO, SamplingParams())
        discarding = asyncio.create_task(answers.discard(live))
        await backend.taken()
        assert backend.cancelled == [live.request_id], "the backend was told before it knew the request"
        backend.send(READ)
        await asyncio.wait_for(discarding, MOMENT_S)
        assert live.done
        assert backend.closed == [live.request_id]

    run(scene())
    assert store.list(ME) == []


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_discard_returns_once_nothing_more_will_be_stored(backend, role: str) -> None:
    """Whoever deletes the conversation then can be sure that it does not come back."""

    class SlowToSave(Store):
        def save(self, owner: str, conversation: Conversation) -> Conversation:
            if conversation.messages[-1].role == role:
                saving.set()
                assert go_on.wait(PATIENCE_S)
            return super().save(owner, conversation)

    saving, go_on = threading.Event(), threading.Event()
    store = SlowToSave("sqlite://")
    answers = new_answers(store, backend)

    async def scene() -> None:
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

    run(scene())
    assert store.list(ME) == []
    store.close()


def test_a_deleted_conversation_does_not_come_back_with_its_answer(answers, backend, store) -> None:
    async def scene() -> None:
        live = await begin(answers, backend, EARLIER, "Only this")
        store.delete(ME, EARLIER.id)
        await answers.discard(live)

    run(scene())
    assert store.list(ME) == []


def test_an_answer_that_nobody_watches_is_ended_and_kept_as_abandoned(backend, store) -> None:
    async def scene() -> None:
        live = await begin(new_answers(store, backend, unwatched_seconds=0.05), backend, HELLO, "To nobody")
        assert (await done(live)).error is None

    run(scene())
    assert texts(store, HELLO) == ["Hello?", "To nobody"]
    assert store.load(ME, HELLO.id).messages[-1].facts["reason"] == "abandoned"
    assert backend.closed == [backend.requests[0].id]


def test_an_answer_whose_watcher_has_left_is_ended(backend, store) -> None:
    async def scene() -> None:
        live = await begin(new_answers(store, backend, unwatched_seconds=0.05), backend, HELLO, "Wait")
        await watch(live, until_shown="Wait")
        await until(lambda: live.done, "the answer has ended", MOMENT_S)

    run(scene())
    assert store.load(ME, HELLO.id).messages[-1].facts["reason"] == "abandoned"


def test_an_answer_that_somebody_watches_is_not_ended(backend, store) -> None:
    """Two started together: by the time the unwatched one is given up, its twin would have been too."""
    answers = new_answers(store, backend, unwatched_seconds=0.05)

    async def scene() -> None:
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

    run(scene())


def test_a_program_that_ends_keeps_what_was_written(answers, backend, store) -> None:
    """asyncio.run cancels what is left when the scene is over, as it does when the server has stopped."""

    async def scene() -> None:
        await begin(answers, backend, EARLIER, "As far ", "as it came")

    run(scene())
    assert texts(store, EARLIER) == ["Hello?", "Hi.", "And now?", "As far as it came"]
    assert backend.closed == [backend.requests[0].id]


def test_a_program_that_ends_before_the_first_event_stores_nothing(answers, backend, store) -> None:
    async def scene() -> None:
        answers.start(ME, HELLO, SamplingParams())
        await backend.taken()

    run(scene())
    assert store.list(ME) == []


def test_a_program_that_ends_while_the_answer_is_being_stored_keeps_it_once(backend) -> None:
    """The writing thread is done and the event loop has not heard of it yet: that is where the cancellation strikes."""

    class CancelledOnSave(Store):
        def save(self, owner: str, conversation: Conversation) -> Conversation:
            if conversation.messages[-1].role == "assistant" and not cancelling:
                cancelling.append(True)
                loop.call_soon_threadsafe(cancel_when_written)
            return super().save(owner, conversation)

    cancelling: list[bool] = []
    store = CancelledOnSave("sqlite://")
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
    store.close()


# --- failing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [BackendBusy("The queue is full."), BackendUnavailable("The model is loading.")])
def test_a_refused_request_leaves_the_store_as_it_was(answers, backend, store, refusal: DemoError) -> None:
    before = EARLIER.cut(2)
    store.save(ME, before)
    backend.refusal = refusal

    async def scene() -> LiveAnswer:
        live = answers.start(ME, EARLIER, SamplingParams())
        await watch(live)
        assert answers.get(live.id) is None
        return live

    live = run(scene())
    assert live.error is refusal
    assert live.answer is None
    assert store.load(ME, EARLIER.id) == before


def test_a_refused_first_question_leaves_no_conversation(answers, backend, store) -> None:
    backend.refusal = BackendBusy("The queue is full.")

    async def scene() -> None:
        await watch(answers.start(ME, HELLO, SamplingParams()))

    run(scene())
    assert store.list(ME) == []


def test_a_prompt_that_cannot_be_built_is_the_answers_error(store) -> None:
    backend = HandBackend(context_length=100)

    async def scene() -> LiveAnswer:
        live = new_answers(store, backend).start(ME, talk("x" * 200), SamplingParams())
        await watch(live)
        return live

    live = run(scene())
    assert isinstance(live.error, PromptTooLong)
    assert backend.requests == []
    assert store.list(ME) == []


@pytest.mark.parametrize("events", [[], [READ, TokenEvent(0, 7, "Begun")]], ids=["before the first event", "in the middle"])
def test_an_unexpected_failure_becomes_a_sentence_without_internals(answers, backend, store, caplog, events) -> None:
    async def scene() -> LiveAnswer:
        live = answers.start(ME, HELLO, SamplingParams())
        await backend.taken()
        backend.send(*events, KeyError("secret_table_row"))
        await watch(live)
        assert answers.get(live.id) is None
        return live

    live = run(scene())
    assert type(live.error) is DemoError
    assert "secret_table_row" not in str(live.error)
    assert "KeyError" not in str(live.error)
    assert "secret_table_row" in caplog.text, "the log has the cause"


def test_a_model_that_fails_in_the_middle_leaves_what_was_written_and_the_cause(answers, backend, store) -> None:
    async def scene() -> LiveAnswer:
        live = await begin(answers, backend, HELLO, "Half a")
        backend.send(finished("error", error="The model failed on this request: no power"))
        return await done(live)

    assert run(scene()).error is None
    answer = store.load(ME, HELLO.id).messages[-1]
    assert (answer.text, answer.facts["reason"]) == ("Half a", "error")
    assert "no power" in answer.facts["error"]


def test_an_answer_that_cannot_be_stored_fails_by_name_and_the_conversation_is_free_again(backend) -> None:
    class FullDisk(Store):
        def save(self, owner: str, conversation: Conversation) -> Conversation:
            raise BackendUnavailable("The disk is full.")

    store = FullDisk("sqlite://")
    answers = new_answers(store, backend)

    async def scene() -> None:
        live = answers.start(ME, HELLO, SamplingParams())
        await backend.taken()
        backend.send(READ)
        await watch(live)
        assert str(live.error) == "The disk is full."
        answers.refuse_second(HELLO.id)
        await until(lambda: backend.closed, "the request was given up")

    run(scene())
    store.close()
