"""Answers under way belong to their conversation: pages come and go, and a failure has a name."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.engine.base import QueueEvent, TokenEvent
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, DemoError, PromptTooLong
from mllama_demo.generation.tasks import AnswerTask
from mllama_demo.sampling import SamplingParams
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from tests.support.answer_tasks import EARLIER, HELLO, ME, OFTEN, begin, done, new_answers, shown, texts, watch
from tests.support.manual_backend import READ, ManualBackend, finished, talk, until

pytestmark = pytest.mark.timeout(60)


# --- watching ------------------------------------------------------------------------------------------------------------


async def test_a_finished_answer_is_kept_with_its_figures(answers, backend, store) -> None:
    async def scene() -> AnswerTask:
        live = await begin(answers, backend, HELLO, "Hi ", "there")
        backend.send(finished(text="!"))
        return await done(live)

    live = await scene()
    assert live.error is None
    assert [message.text for message in live.conversation.messages] == texts(store, HELLO)
    question, answer = live.conversation.messages
    assert (question, answer.role, answer.text) == (HELLO.messages[0], "assistant", "Hi there!")
    assert (answer.metadata["reason"], answer.metadata["completion_tokens"], answer.metadata["ttft_s"]) == ("end_of_turn", 3, 1.5)


async def test_the_question_is_stored_as_soon_as_the_backend_took_the_request(answers, backend, store) -> None:
    answers.start(ME, HELLO, SamplingParams())
    await backend.taken()
    assert store.list(ME) == []
    backend.send(QueueEvent(1, None))
    await until(lambda: store.list(ME), "the conversation is in the list")
    assert texts(store, HELLO) == ["Hello?"]


async def test_an_answer_goes_on_while_its_watcher_is_away(answers, backend) -> None:
    live = await begin(answers, backend, HELLO, "One")
    assert await watch(live, until_shown="One") == "One"
    backend.say(", two")
    await until(lambda: shown(live) == "One, two", "the answer grows unwatched")
    assert await watch(live, until_shown="One, two") == "One, two"
    coming = asyncio.create_task(watch(live))
    backend.say(", three")
    backend.send(finished())
    assert await coming == "One, two, three"


async def test_a_second_watcher_sees_the_same(answers, backend) -> None:
    live = await begin(answers, backend, HELLO, "One")
    watching = [asyncio.create_task(watch(live, until_shown="One, two")) for _ in range(2)]
    backend.say(", two")
    assert await asyncio.gather(*watching) == ["One, two"] * 2
    watching = [asyncio.create_task(watch(live)) for _ in range(2)]
    await until(lambda: live.watchers == 2, "both watch")
    backend.say(", three")
    backend.send(finished())
    assert (await asyncio.gather(*watching)) == ["One, two, three"] * 2


async def test_who_watches_a_finished_answer_gets_one_look_and_no_more(answers, backend) -> None:
    live = await begin(answers, backend, HELLO, "One")
    backend.send(finished())
    await done(live)
    assert len([None async for _ in live.watch(OFTEN)]) == 1


async def test_who_shows_how_long_it_takes_is_woken_while_nothing_happens(answers, backend) -> None:
    live = await begin(answers, backend, HELLO, "One")
    looks = 0
    async with aclosing(live.watch(OFTEN, at_least_every_s=0.01)) as moments:
        async for _ in moments:
            looks += 1
            if looks == 3:
                break
    backend.send(finished())
    await done(live)


async def test_an_answer_is_found_while_it_is_under_way_and_not_after(answers, backend) -> None:
    assert answers.get(HELLO.id) is None
    live = await begin(answers, backend, HELLO, "One")
    assert answers.get(HELLO.id) is live
    assert live.owner == ME
    assert answers.get("another") is None
    backend.send(finished())
    await done(live)
    assert answers.get(HELLO.id) is None


async def test_a_second_answer_in_the_same_conversation_is_refused_until_the_first_is_done(answers, backend, store) -> None:
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
    assert texts(store, HELLO) == ["Hello?", "One", "Again?", "Three"]


# --- failing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [BackendBusy("The queue is full."), BackendUnavailable("The model is loading.")])
async def test_a_refused_request_leaves_the_store_as_it_was(answers, backend, store, refusal: DemoError) -> None:
    before = EARLIER.cut(2)
    store.save(ME, before)
    backend.refusal = refusal
    live = answers.start(ME, EARLIER, SamplingParams())
    await watch(live)
    assert answers.get(live.id) is None
    assert live.error is refusal
    assert live.answer is None
    assert store.load(ME, EARLIER.id) == before


async def test_a_refused_first_question_leaves_no_conversation(answers, backend, store) -> None:
    backend.refusal = BackendBusy("The queue is full.")
    await watch(answers.start(ME, HELLO, SamplingParams()))
    assert store.list(ME) == []


async def test_a_prompt_that_cannot_be_built_is_the_answers_error(store) -> None:
    backend = ManualBackend(context_length=100)
    live = new_answers(store, backend).start(ME, talk("x" * 200), SamplingParams())
    await watch(live)
    assert isinstance(live.error, PromptTooLong)
    assert backend.requests == []
    assert store.list(ME) == []


@pytest.mark.parametrize("events", [[], [READ, TokenEvent(0, 7, "Begun")]], ids=["before the first event", "in the middle"])
async def test_an_unexpected_failure_becomes_a_sentence_without_internals(answers, backend, store, caplog, events) -> None:
    live = answers.start(ME, HELLO, SamplingParams())
    await backend.taken()
    backend.send(*events, KeyError("secret_table_row"))
    await watch(live)
    assert answers.get(live.id) is None
    assert type(live.error) is DemoError
    assert "secret_table_row" not in str(live.error)
    assert "KeyError" not in str(live.error)
    assert "secret_table_row" in caplog.text, "the log has the cause"


async def test_a_model_that_fails_in_the_middle_leaves_what_was_written_and_the_cause(answers, backend, store) -> None:
    live = await begin(answers, backend, HELLO, "Half a")
    backend.send(finished("error", error="The model failed on this request: no power"))
    assert (await done(live)).error is None
    answer = store.load(ME, HELLO.id).messages[-1]
    assert (answer.text, answer.metadata["reason"]) == ("Half a", "error")
    assert "no power" in answer.metadata["error"]


async def test_an_answer_that_cannot_be_stored_fails_by_name_and_the_conversation_is_free_again(backend) -> None:
    class FullDisk(ConversationStore):
        def save(self, owner: str, conversation: Conversation) -> MessageTree:
            raise BackendUnavailable("The disk is full.")

    store = FullDisk(Database("sqlite://"))
    answers = new_answers(store, backend)
    live = answers.start(ME, HELLO, SamplingParams())
    await backend.taken()
    backend.send(READ)
    await watch(live)
    assert str(live.error) == "The disk is full."
    answers.refuse_second(HELLO.id)
    await until(lambda: backend.closed, "the request was given up")
    store.database.close()
