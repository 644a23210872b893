"""AnswerTasks while they run: several watchers, and every kind of failure."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.engine.base import QueueEvent, TokenEvent
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, DemoError, PromptTooLong
from mllama_demo.generation.tasks import AnswerTask
from mllama_demo.runtime.failures import FAILURES
from mllama_demo.runtime.logs import REQUEST_ID
from mllama_demo.sampling import SamplingParams
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from tests.support.answer_tasks import EARLIER, HELLO, ME, OFTEN, begin, done, new_answers, shown, texts, watch
from tests.support.manual_backend import READ, ManualBackend, conversation_of, finished
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)


# --- watching ------------------------------------------------------------------------------------------------------------


async def test_a_finished_answer_is_stored_with_its_metadata(answers, backend, store) -> None:
    task = await begin(answers, backend, HELLO, "Hi ", "there")
    backend.send(finished(text="!"))
    await done(task)
    assert task.error is None
    assert [message.text for message in task.conversation.messages] == texts(store, HELLO)
    question, answer = task.conversation.messages
    assert (question, answer.role, answer.text) == (HELLO.messages[0], "assistant", "Hi there!")
    assert (answer.metadata["reason"], answer.metadata["completion_tokens"], answer.metadata["ttft_s"]) == ("end_of_turn", 3, 1.5)


async def test_the_question_is_stored_as_soon_as_the_backend_accepts_the_request(answers, backend, store) -> None:
    answers.start(ME, HELLO, SamplingParams())
    await backend.taken()
    assert store.list(ME) == []
    backend.send(QueueEvent(1, None))
    await until(lambda: store.list(ME), "the conversation is in the list")
    assert texts(store, HELLO) == ["Hello?"]


async def test_an_answer_continues_without_watchers(answers, backend) -> None:
    task = await begin(answers, backend, HELLO, "One")
    assert await watch(task, until_shown="One") == "One"
    backend.say(", two")
    await until(lambda: shown(task) == "One, two", "the answer grows unwatched")
    assert await watch(task, until_shown="One, two") == "One, two"
    coming = asyncio.create_task(watch(task))
    backend.say(", three")
    backend.send(finished())
    assert await coming == "One, two, three"


async def test_two_watchers_see_the_same_text(answers, backend) -> None:
    task = await begin(answers, backend, HELLO, "One")
    watching = [asyncio.create_task(watch(task, until_shown="One, two")) for _ in range(2)]
    backend.say(", two")
    assert await asyncio.gather(*watching) == ["One, two"] * 2
    watching = [asyncio.create_task(watch(task)) for _ in range(2)]
    await until(lambda: task.watchers == 2, "both watch")
    backend.say(", three")
    backend.send(finished())
    assert (await asyncio.gather(*watching)) == ["One, two, three"] * 2


async def test_watching_a_finished_answer_yields_once(answers, backend) -> None:
    task = await begin(answers, backend, HELLO, "One")
    backend.send(finished())
    await done(task)
    assert len([None async for _ in task.watch(OFTEN)]) == 1


async def test_watch_yields_at_least_every_interval_without_changes(answers, backend) -> None:
    task = await begin(answers, backend, HELLO, "One")
    async with aclosing(task.watch(OFTEN, at_least_every_s=0.01)) as changes:
        for _ in range(3):
            await anext(changes)
    backend.send(finished())
    await done(task)


async def test_watch_follows_the_current_rate(monkeypatch) -> None:
    task, rates, waits = AnswerTask(ME, HELLO), [4.0, 8.0, 2.0], []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("mllama_demo.generation.tasks.time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    async with aclosing(task.watch(lambda: rates[len(waits)], 0.001)) as changes:
        for _ in range(4):
            await anext(changes)
    assert waits == [1 / 4, 1 / 8, 1 / 2]


async def test_get_finds_a_task_only_while_it_runs(answers, backend) -> None:
    assert answers.get(HELLO.id) is None
    task = await begin(answers, backend, HELLO, "One")
    assert answers.get(HELLO.id) is task
    assert task.owner == ME
    assert answers.get("another") is None
    backend.send(finished())
    await done(task)
    assert answers.get(HELLO.id) is None


async def test_a_second_answer_in_a_conversation_is_refused_until_the_first_is_done(answers, backend, store) -> None:
    task = await begin(answers, backend, HELLO, "One")
    with pytest.raises(BadRequest, match="is being answered already"):
        answers.start(ME, HELLO.add(Message("user", "Hello??")), SamplingParams())
    other = await begin(answers, backend, conversation_of("Something else?"), "Two")
    backend.send(finished())
    await done(other)
    assert len(backend.requests) == 2
    answers.stop(task)
    await done(task)
    again = await begin(answers, backend, task.conversation.add(Message("user", "Again?")), "Three")
    backend.send(finished())
    await done(again)
    assert texts(store, HELLO) == ["Hello?", "One", "Again?", "Three"]


# --- failing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [BackendBusy("The queue is full."), BackendUnavailable("The model is loading.")])
async def test_a_refused_request_is_stored_with_its_question(answers, backend, store, refusal: DemoError) -> None:
    before = EARLIER.cut(2)
    store.save(ME, before)
    backend.refusal = refusal
    task = answers.start(ME, EARLIER, SamplingParams())
    await watch(task)
    assert answers.get(task.id) is None
    assert task.error is refusal
    assert task.answer is None
    assert task.saved
    stored = store.load(ME, EARLIER.id).messages
    assert stored[:-1] == EARLIER.messages
    assert (stored[-1].failed, stored[-1].metadata["error"]) == (True, str(refusal))


async def test_a_refusal_that_cannot_be_stored_is_the_tasks_error(answers, backend, store, monkeypatch) -> None:
    backend.refusal = refusal = BackendBusy("The queue is full.")
    monkeypatch.setattr(store, "save", Mock(side_effect=BackendUnavailable("The database does not answer.")))
    task = answers.start(ME, HELLO, SamplingParams())
    await watch(task)
    assert (task.error, task.saved) == (refusal, False)


async def test_a_prompt_that_is_too_long_is_the_tasks_error(store) -> None:
    backend = ManualBackend(context_length=100)
    task = new_answers(store, backend).start(ME, conversation_of("x" * 200), SamplingParams())
    await watch(task)
    assert isinstance(task.error, PromptTooLong)
    assert backend.requests == []
    assert store.load(ME, task.id).messages[-1].failed


@pytest.mark.parametrize("events", [[], [READ, TokenEvent(0, 7, "Begun")]], ids=["before the first event", "in the middle"])
async def test_an_unexpected_failure_becomes_a_message_without_internals(answers, backend, store, caplog, events) -> None:
    task = answers.start(ME, HELLO, SamplingParams())
    await backend.taken()
    backend.send(*events, KeyError("secret_table_row"))
    await watch(task)
    assert answers.get(task.id) is None
    assert type(task.error) is DemoError
    assert "secret_table_row" not in str(task.error)
    assert "KeyError" not in str(task.error)
    assert "secret_table_row" in caplog.text, "the log has the cause"


async def test_a_failed_generation_stores_the_text_so_far_and_the_cause(answers, backend, store) -> None:
    task = await begin(answers, backend, HELLO, "Half a")
    backend.send(finished("error", error="The model failed on this request: no power"))
    assert (await done(task)).error is None
    answer = store.load(ME, HELLO.id).messages[-1]
    assert (answer.text, answer.metadata["reason"]) == ("Half a", "error")
    assert "no power" in answer.metadata["error"]


async def test_an_answer_that_cannot_be_stored_fails_and_the_conversation_can_be_answered_again(backend) -> None:
    class FullDisk(ConversationStore):
        def save(self, owner: str, conversation: Conversation, begun: MessageTree | None = None) -> MessageTree:
            raise BackendUnavailable("The disk is full.")

    store = FullDisk(Database("sqlite://"))
    answers = new_answers(store, backend)
    task = answers.start(ME, HELLO, SamplingParams())
    await backend.taken()
    backend.send(READ)
    await watch(task)
    assert str(task.error) == "The disk is full."
    answers.require_idle(HELLO.id)
    await until(lambda: backend.closed, "the request was given up")
    store.database.close()


async def test_a_stored_failure_has_the_id_of_the_request_that_asked(answers, backend, store) -> None:
    backend.refusal = BackendUnavailable("The model is down.")
    token = REQUEST_ID.set("abc-123")
    task = answers.start(ME, HELLO, SamplingParams())
    REQUEST_ID.reset(token)
    await done(task)
    metadata = store.load(ME, HELLO.id).messages[-1].metadata
    assert (metadata["error"], metadata["request_id"]) == ("The model is down.", "abc-123")
    assert FAILURES.latest()[0].request_id == "abc-123"
