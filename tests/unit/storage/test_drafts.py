# pyright: reportArgumentType=false
"""Drafts of answers are recovered once, for their owner, and never while their answer is generated."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.config.settings import Settings
from mllama_demo.generation.service import GenerationService
from mllama_demo.generation.tasks import AnswerTasks
from mllama_demo.sampling import SamplingParams
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.drafts import LIFETIME, Drafts
from tests.support.code_points import CodePoints
from tests.support.manual_backend import READ, ManualBackend, conversation_of, finished
from tests.support.waiting import until

ME = "me"
PART = Message("assistant", "Once the", metadata={"sampling": {"temperature": 0.6}, "dropped": 0})


@pytest.fixture
def drafts(store: ConversationStore) -> Drafts:
    return Drafts(store)


def later(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    now = Database.now
    monkeypatch.setattr(Database, "now", lambda self: now(self) + by)


def asked(store: ConversationStore) -> Conversation:
    return store.save(ME, conversation_of("Tell me a story")).conversation()


def texts(store: ConversationStore, conversation: Conversation) -> list[str]:
    return [message.text for message in store.load(ME, conversation.id).messages]


def expired(drafts: Drafts, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that would be recovered if the program ended now."""
    with monkeypatch.context() as patch:
        later(patch, LIFETIME * 1.1)
        return [draft.text for _, _, draft in drafts._expired(ME)]


def test_a_draft_of_the_future_was_left_before_the_clock_was_set_back(store, drafts, monkeypatch) -> None:
    conversation = asked(store)
    drafts.put(ME, conversation, PART)
    later(monkeypatch, timedelta(hours=-3))
    found = drafts.get(ME, conversation.id)
    assert found is not None
    assert found[1], "it has expired"
    drafts.recover(ME)
    assert texts(store, conversation) == ["Tell me a story", "Once the"]


def test_an_expired_draft_becomes_a_truncated_answer(store, drafts, monkeypatch) -> None:
    conversation = asked(store)
    drafts.put(ME, conversation, Message("assistant", "Once", metadata={}))
    drafts.put(ME, conversation, PART)
    later(monkeypatch, LIFETIME * 1.1)
    drafts.recover(ME)
    answer = store.load(ME, conversation.id).messages[-1]
    assert (answer.role, answer.text, answer.metadata) == ("assistant", "Once the", {**PART.metadata, "reason": "cut_off"})
    drafts.recover(ME)
    assert texts(store, conversation) == ["Tell me a story", "Once the"]


def test_a_draft_that_is_refreshed_or_active_is_not_recovered(store, drafts, monkeypatch) -> None:
    conversation = asked(store)
    drafts.put(ME, conversation, PART)
    drafts.recover(ME)
    later(monkeypatch, LIFETIME * 0.9)
    drafts.recover(ME)
    assert texts(store, conversation) == ["Tell me a story"]
    later(monkeypatch, LIFETIME)
    drafts.recover(ME, active={conversation.id})
    drafts.recover("somebody else")
    assert texts(store, conversation) == ["Tell me a story"]
    drafts.recover(ME)
    assert texts(store, conversation) == ["Tell me a story", "Once the"]


def test_a_draft_of_a_changed_conversation_is_not_recovered(store, drafts, monkeypatch) -> None:
    answered, deleted, dropped = asked(store), asked(store), asked(store)
    for conversation in (answered, deleted, dropped):
        drafts.put(ME, conversation, PART)
    store.save(ME, answered.add(Message("assistant", "Once there was a dog.")))
    store.delete(ME, deleted.id)
    drafts.delete(dropped.id)
    later(monkeypatch, LIFETIME * 1.1)
    drafts.recover(ME)
    store.restore(ME, deleted.id)
    drafts.recover(ME)
    assert texts(store, answered) == ["Tell me a story", "Once there was a dog."]
    assert texts(store, deleted) == texts(store, dropped) == ["Tell me a story"]


def test_erasing_an_owner_deletes_only_their_drafts(store, drafts, monkeypatch) -> None:
    mine, theirs = asked(store), store.save("somebody else", conversation_of("Tell me a story")).conversation()
    drafts.put(ME, mine, PART)
    drafts.put("somebody else", theirs, PART)
    drafts.erase(ME)
    later(monkeypatch, LIFETIME * 1.1)
    assert drafts._expired(ME) == []
    assert [id for id, _, _ in drafts._expired("somebody else")] == [theirs.id]


async def begun(backend: ManualBackend) -> None:
    """The first words of the answer to the question that it was asked."""
    await backend.taken()
    backend.send(READ)
    backend.say("O", "n")


async def test_an_answer_has_a_draft_only_while_it_is_generated(store, drafts, monkeypatch) -> None:
    backend = ManualBackend()
    answers = AnswerTasks(GenerationService(backend, CodePoints(), store, Settings()), store, Drafts(store))
    monkeypatch.setattr("mllama_demo.generation.tasks.REFRESH_INTERVAL_S", 0.01)
    conversation = conversation_of("Tell me a story")
    task = answers.start(ME, conversation, SamplingParams())
    await begun(backend)
    await until(lambda: expired(drafts, monkeypatch) == ["On"], "what was written is drafted")
    backend.send(finished())
    await until(lambda: task.done, "the answer is stored")
    await until(lambda: not expired(drafts, monkeypatch), "its draft is gone")
    assert texts(store, conversation) == ["Tell me a story", "On"]
