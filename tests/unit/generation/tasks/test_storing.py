"""A complete answer that the database does not take is kept and stored again, until it is stored."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from mllama_demo.chat.conversation import Message
from mllama_demo.errors import NotFound
from mllama_demo.generation import tasks
from mllama_demo.generation.tasks import AnswerTask
from mllama_demo.storage import database as database_module
from mllama_demo.storage import drafts
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.drafts import Drafts
from tests.support.answer_tasks import HELLO, ME, begin, done, new_answers, texts
from tests.support.manual_backend import ManualBackend, finished
from tests.support.stored_conversations import sqlite_url
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conversations.sqlite3"


@pytest.fixture
def store(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConversationStore]:
    monkeypatch.setattr(database_module, "_BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(tasks, "STORE_AGAIN_S", 0.02)
    monkeypatch.setattr(tasks, "REFRESH_INTERVAL_S", 0.02)
    with closing(Database(sqlite_url(path))) as database:
        yield ConversationStore(database)


async def complete_while_locked(
    path: Path, store: ConversationStore, backend: ManualBackend
) -> tuple[AnswerTask, sqlite3.Connection]:
    """An answer "Hi." whose end finds the database locked, and the connection that locks it."""
    answers = new_answers(store, backend, unwatched_seconds=5.0)
    task = await begin(answers, backend, HELLO, "Hi.")
    await until(lambda: Drafts(store).get(ME, HELLO.id) is not None, "a draft is stored")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    backend.send(finished())
    await until(lambda: task.unsaved, "the answer cannot be stored")
    answers._unwatched_seconds = 0.05  # an answer that is being written would be stopped now: nobody watches it
    return task, other


@pytest.mark.slow
async def test_the_answer_is_stored_whole_when_the_database_answers_again(path, store, backend, caplog) -> None:
    task, other = await complete_while_locked(path, store, backend)
    await asyncio.sleep(1.2)  # several attempts, and looks for watchers
    assert (task.done, task.error) == (False, None)
    assert backend.closed == [task.request_id], "it has no slot"
    other.close()
    await done(task)
    assert texts(store, HELLO) == ["Hello?", "Hi."]
    assert store.load(ME, HELLO.id).messages[-1].metadata["reason"] == "end_of_turn"
    assert len([record for record in caplog.records if "cannot be stored yet" in record.getMessage()]) == 1
    await until(lambda: Drafts(store).get(ME, HELLO.id) is None, "its draft is gone")


async def test_a_discarded_answer_is_not_stored(path, store, backend) -> None:
    task, other = await complete_while_locked(path, store, backend)
    task.discarded = True
    await done(task)
    other.close()
    assert texts(store, HELLO) == ["Hello?"]


def test_the_text_so_far_is_recovered_where_the_process_ends_first(path, store, backend, monkeypatch, caplog) -> None:
    async def scene() -> None:
        task, other = await complete_while_locked(path, store, backend)
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for one in running:
            one.cancel()
        await asyncio.wait(running)
        other.close()
        assert not task.saved

    asyncio.run(scene())
    assert "are lost" in caplog.text
    assert texts(store, HELLO) == ["Hello?"]
    monkeypatch.setattr(drafts, "LIFETIME", timedelta(0))
    Drafts(store).recover(ME)
    assert texts(store, HELLO) == ["Hello?", "Hi."]
    assert store.load(ME, HELLO.id).messages[-1].metadata["reason"] == "cut_off"


async def test_reading_goes_on_while_a_draft_cannot_be_recovered(path, store, backend, monkeypatch) -> None:
    stored = store.save(ME, HELLO)
    Drafts(store).put(ME, stored.conversation(), HELLO.messages[0])
    monkeypatch.setattr(drafts, "LIFETIME", timedelta(0))
    answers = new_answers(store, backend)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not await answers.recover_drafts(ME)
        shown = await answers.draft(ME, HELLO.id)
        assert shown is not None
        assert shown.text == "Hello?"
    assert await answers.draft(ME, HELLO.id) is None
    assert texts(store, HELLO) == ["Hello?", "Hello?"]
    with pytest.raises(NotFound):
        store.load("somebody else", HELLO.id)


async def test_a_whole_answer_replaces_its_draft_that_another_process_has_recovered(store, backend, monkeypatch) -> None:
    earlier = store.save(ME, HELLO.add(Message("assistant", "Hi", metadata={"reason": "cut_off"}))).conversation()
    retried = replace(earlier, messages=earlier.messages[:-1])
    task = await begin(new_answers(store, backend), backend, retried, "Hi ")
    Drafts(store).put(ME, task.conversation, Message("assistant", "Hi ", metadata={}))
    with monkeypatch.context() as patch:
        patch.setattr(drafts, "LIFETIME", timedelta(0))
        Drafts(store).recover(ME)
    assert texts(store, HELLO) == ["Hello?", "Hi "]
    backend.say("there.")
    backend.send(finished())
    await done(task)
    assert [node.message.text for node in store.tree(ME, HELLO.id).nodes] == ["Hello?", "Hi", "Hi there."]
    assert texts(store, HELLO) == ["Hello?", "Hi there."]
    assert store.load(ME, HELLO.id).messages[-1].metadata["reason"] == "end_of_turn"


async def test_a_draft_is_stored_as_soon_as_an_answer_begins(
    store: ConversationStore, backend: ManualBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "REFRESH_INTERVAL_S", 600.0)
    task = await begin(new_answers(store, backend), backend, HELLO, "Hi.")
    await until(lambda: Drafts(store).get(ME, HELLO.id) is not None, "the draft is stored")
    backend.send(finished())
    await until(lambda: task.done, "the answer is stored")
