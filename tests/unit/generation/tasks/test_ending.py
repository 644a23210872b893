"""AnswerTasks that end early: stopped, discarded, unwatched, or at the end of the process."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.engine.base import QueueEvent
from mllama_demo.generation.tasks import AnswerTask
from mllama_demo.sampling import SamplingParams
from mllama_demo.storage import drafts
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.drafts import Drafts
from tests.support.answer_tasks import EARLIER, HELLO, ME, begin, done, new_answers, texts, watch
from tests.support.manual_backend import PATIENCE_S, READ, ManualBackend, conversation_of, finished
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)

SHORT_S = 3.0  # for what needs a few turns of the event loop only


async def test_stop_stores_the_text_so_far(answers, backend, store) -> None:
    task = await begin(answers, backend, EARLIER, "Only ", "this")
    answers.stop(task)
    assert (await done(task)).error is None
    assert texts(store, EARLIER) == ["Hello?", "Hi.", "And now?", "Only this"]
    assert store.load(ME, EARLIER.id).messages[-1].metadata["reason"] == "cancelled"
    assert backend.closed == [backend.requests[0].id]
    assert set(backend.cancelled) == {backend.requests[0].id}


@pytest.mark.parametrize("ending", ["stopped", "stopped late", "time_limit", "cancelled", "unwatched", "the process ends"])
async def test_an_answer_that_goes_on_and_ends_before_a_word_came_stores_no_version(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    backend = ManualBackend()
    backend.info = replace(backend.info, capabilities=frozenset({"images", "continue"}))
    answers = new_answers(store, backend, unwatched_seconds=0.2 if ending == "unwatched" else 5.0)
    begun = HELLO.add(Message("assistant", "Once upon", metadata={"reason": "max_tokens"}))
    tree = store.save(ME, begun)
    task = answers.start(ME, HELLO, SamplingParams(), tree, beginning="Once upon")
    await backend.taken()
    backend.send(READ if ending == "stopped late" else QueueEvent(1, None))
    await until(lambda: task.answer is not None, "the answer has begun")
    if ending.startswith("stopped"):
        answers.stop(task)
    elif ending == "the process ends":
        for running in answers._asyncio_tasks:
            running.cancel()
    elif ending != "unwatched":
        backend.send(finished(ending))  # pyright: ignore[reportArgumentType]
    await until(lambda: task.done, "the answer has ended")
    assert task.error is None
    assert store.tree(ME, HELLO.id) == tree, "the shorter answer is shown, and has no other version"
    assert task.conversation.messages == begun.messages
    await until(lambda: not answers._asyncio_tasks, "no draft is written any more")
    monkeypatch.setattr(drafts, "LIFETIME", timedelta(0))
    Drafts(store).recover(ME)  # a process that ends may leave the draft
    assert store.tree(ME, HELLO.id) == tree


async def test_an_answer_that_goes_on_keeps_the_words_until_it_was_stopped(store: ConversationStore) -> None:
    backend = ManualBackend()
    backend.info = replace(backend.info, capabilities=frozenset({"images", "continue"}))
    answers = new_answers(store, backend)
    tree = store.save(ME, HELLO.add(Message("assistant", "Once upon", metadata={"reason": "max_tokens"})))
    task = answers.start(ME, HELLO, SamplingParams(), tree, beginning="Once upon")
    await backend.taken()
    backend.send(READ)
    backend.say(" a")
    await until(lambda: task.answer is not None and task.answer.tokens, "a word came")
    answers.stop(task)
    await done(task)
    assert texts(store, HELLO) == ["Hello?", "Once upon a"]
    assert len(store.tree(ME, HELLO.id).nodes) == 3


async def test_stop_and_discard_of_a_finished_answer_change_nothing(answers, backend, store) -> None:
    task = await begin(answers, backend, HELLO, "Hi.")
    backend.send(finished())
    await done(task)
    before = task.conversation
    again = await begin(answers, backend, task.conversation.add(Message("user", "Again?")), "Yes")
    answers.stop(task)
    await asyncio.wait_for(answers.discard(task), SHORT_S)
    assert (task.error, task.conversation) == (None, before)
    backend.say(", again.")
    backend.send(finished())
    assert (await done(again)).error is None, "the next answer of the conversation is another one"
    assert texts(store, HELLO) == ["Hello?", "Hi.", "Again?", "Yes, again."]


async def test_a_stop_before_the_backend_has_the_request_is_not_lost(answers, backend) -> None:
    """The user can press Stop while the prompt is built and the image is decoded."""
    task = answers.start(ME, HELLO, SamplingParams())
    answers.stop(task)
    await until(lambda: task.done or backend.requests, "the request was given up, or sent")
    if not (task.done or backend.closed):
        backend.send(READ)
    await until(lambda: task.done, "the answer has ended", SHORT_S)


async def test_a_discarded_answer_is_not_stored(answers, backend, store) -> None:
    task = await begin(answers, backend, EARLIER, "Only this")
    await answers.discard(task)
    assert task.done
    assert answers.get(task.id) is None
    assert (task.error, task.conversation) == (None, EARLIER)
    assert texts(store, EARLIER) == ["Hello?", "Hi.", "And now?"]
    assert backend.closed == [backend.requests[0].id]


async def test_an_answer_discarded_before_its_first_event_stores_nothing(answers, backend, store) -> None:
    task = answers.start(ME, HELLO, SamplingParams())
    await backend.taken()
    await answers.discard(task)
    assert task.done
    assert store.list(ME) == []


async def test_a_discard_before_the_backend_has_the_request_is_not_lost(answers, backend, store) -> None:
    task = answers.start(ME, HELLO, SamplingParams())
    discarding = asyncio.create_task(answers.discard(task))
    await backend.taken()
    assert backend.cancelled == [task.request_id], "the backend does not have the request yet"
    backend.send(READ)
    await asyncio.wait_for(discarding, SHORT_S)
    assert task.done
    assert backend.closed == [task.request_id]
    assert store.list(ME) == []


@pytest.mark.parametrize("role", ["user", "assistant"])
async def test_discard_returns_when_nothing_more_will_be_stored(backend, role: str) -> None:
    """A conversation that is deleted after a discard does not come back."""

    class SlowToSave(ConversationStore):
        def save(self, owner: str, conversation: Conversation, begun: MessageTree | None = None) -> MessageTree:
            if conversation.messages[-1].role == role:
                saving.set()
                assert go_on.wait(PATIENCE_S)
            return super().save(owner, conversation, begun)

    saving, go_on = threading.Event(), threading.Event()
    store = SlowToSave(Database("sqlite://"))
    answers = new_answers(store, backend)
    task = answers.start(ME, HELLO, SamplingParams())
    await backend.taken()
    backend.send(READ)
    if role == "assistant":
        backend.send(finished(text="Hi."))
    assert await asyncio.to_thread(saving.wait, PATIENCE_S)
    discarding = asyncio.create_task(answers.discard(task))
    await asyncio.sleep(0.1)
    assert not discarding.done()
    go_on.set()
    await discarding
    assert task.done
    store.delete(ME, HELLO.id)
    assert store.list(ME) == []
    store.database.close()


async def test_the_stored_answer_appears_in_the_tree_when_the_task_is_done(answers, backend, monkeypatch) -> None:
    """A page that saw the answer in the tree before `done` would show the answer twice."""
    save, stored, go_on = answers._save, threading.Event(), threading.Event()

    def save_and_wait(task: AnswerTask) -> MessageTree | None:
        tree = save(task)
        stored.set()
        assert go_on.wait(PATIENCE_S)
        return tree

    monkeypatch.setattr(answers, "_save", save_and_wait)
    task = await begin(answers, backend, HELLO, "Hi.")
    backend.send(finished())
    assert await asyncio.to_thread(stored.wait, PATIENCE_S)
    assert (task.done, len(task.tree.conversation().messages), len(task.conversation.messages)) == (False, 1, 1)
    go_on.set()
    await done(task)
    assert [len(task.tree.conversation().messages), len(task.conversation.messages)] == [2, 2]


async def test_a_deleted_conversation_does_not_come_back_with_its_answer(answers, backend, store) -> None:
    task = await begin(answers, backend, EARLIER, "Only this")
    store.delete(ME, EARLIER.id)
    await answers.discard(task)
    assert store.list(ME) == []


async def test_an_unwatched_answer_is_stopped_and_stored_as_abandoned(backend, store) -> None:
    task = await begin(new_answers(store, backend, unwatched_seconds=0.05), backend, HELLO, "To nobody")
    assert (await done(task)).error is None
    assert texts(store, HELLO) == ["Hello?", "To nobody"]
    assert store.load(ME, HELLO.id).messages[-1].metadata["reason"] == "abandoned"
    assert backend.closed == [backend.requests[0].id]


async def test_an_answer_is_stopped_after_its_watcher_left(backend, store) -> None:
    task = await begin(new_answers(store, backend, unwatched_seconds=0.05), backend, HELLO, "Wait")
    await watch(task, until_shown="Wait")
    await until(lambda: task.done, "the answer has ended", SHORT_S)
    assert store.load(ME, HELLO.id).messages[-1].metadata["reason"] == "abandoned"


@pytest.mark.slow
async def test_a_watched_answer_is_not_stopped(backend, store) -> None:
    """Waits until unwatched answers, which start later than the watched one, are stopped.

    Each starts after the backend has the one before: without events, a cancellation that the backend ignored is not repeated.
    """
    answers = new_answers(store, backend, unwatched_seconds=0.5)
    watched = answers.start(ME, HELLO, SamplingParams())
    watching = asyncio.create_task(watch(watched))
    await backend.taken()
    for n in range(3):
        alone = answers.start(ME, conversation_of(f"Anybody there? {n}"), SamplingParams())
        await backend.taken()
        await done(alone)
        assert not watched.done
    answers.stop(watched)
    await watching
    assert not watched.abandoned


def test_the_end_of_the_process_stores_the_text_so_far(answers, backend, store) -> None:
    """asyncio.run cancels all tasks at its end, as when the server stops."""

    async def scene() -> None:
        await begin(answers, backend, EARLIER, "As far ", "as it came")

    asyncio.run(scene())
    assert texts(store, EARLIER) == ["Hello?", "Hi.", "And now?", "As far as it came"]
    assert store.load(ME, EARLIER.id).messages[-1].metadata["reason"] == "cut_off"
    assert backend.closed == [backend.requests[0].id]


async def test_the_end_of_the_process_before_the_first_event_stores_nothing(answers, backend, store) -> None:
    answers.start(ME, HELLO, SamplingParams())
    await backend.taken()
    assert store.list(ME) == []


def test_an_answer_is_stored_once_when_the_process_ends_while_storing(backend) -> None:
    """The tasks are cancelled after the writing thread has finished and before the event loop knows it."""

    class CancelledOnSave(ConversationStore):
        def save(self, owner: str, conversation: Conversation, begun: MessageTree | None = None) -> MessageTree:
            if conversation.messages[-1].role == "assistant":
                stored.append(conversation.messages[-1].text)
                if len(stored) == 1:
                    loop.call_soon_threadsafe(cancel_when_written)
            return super().save(owner, conversation, begun)

    stored: list[str] = []
    store = CancelledOnSave(Database("sqlite://"))
    answers = new_answers(store, backend)

    def cancel_when_written() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not task.saved and time.monotonic() < deadline:
            time.sleep(0.001)  # blocks the event loop
        for other in asyncio.all_tasks() - {scene_task}:
            other.cancel()

    async def scene() -> None:
        nonlocal task, loop, scene_task
        scene_task, loop = asyncio.current_task(), asyncio.get_running_loop()
        task = await begin(answers, backend, HELLO, "Once")
        backend.send(finished())
        await done(task)

    task: Any = None
    loop: Any = None
    scene_task: Any = None
    asyncio.run(scene())
    assert stored == ["Once"]
    assert texts(store, HELLO) == ["Hello?", "Once"]
    store.database.close()
