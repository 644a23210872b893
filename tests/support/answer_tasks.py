# pyright: reportArgumentType=false
"""Helpers for tests of AnswerTasks on a ManualBackend."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from mllama_demo.chat.conversation import Conversation
from mllama_demo.config.settings import Settings
from mllama_demo.generation.service import GenerationService
from mllama_demo.generation.tasks import AnswerTask, AnswerTasks
from mllama_demo.sampling import SamplingParams
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.drafts import Drafts
from tests.support.code_points import CodePoints
from tests.support.manual_backend import READ, ManualBackend, conversation_of
from tests.support.waiting import until

OFTEN = 1000.0  # yields per second: a watcher sees nearly every change


def new_answers(store: ConversationStore, backend: ManualBackend, **options: Any) -> AnswerTasks:
    return AnswerTasks(GenerationService(backend, CodePoints(), store, Settings()), store, Drafts(store), **options)


ME = "me"
HELLO = conversation_of("Hello?")
EARLIER = conversation_of("Hello?", "Hi.", "And now?")


def texts(store: ConversationStore, conversation: Conversation) -> list[str]:
    """The stored texts of the conversation."""
    return [message.text for message in store.load(ME, conversation.id).messages]


def shown(task: AnswerTask) -> str:
    return task.answer.text if task.answer else ""


async def watch(task: AnswerTask, until_shown: str | None = None) -> str:
    """Watches until the text is `until_shown`, or to the end. Returns the last text."""
    async with aclosing(task.watch(OFTEN)) as changes:
        async for _ in changes:
            if until_shown is not None and shown(task) == until_shown:
                break
    return shown(task)


async def begin(answers: AnswerTasks, backend: ManualBackend, conversation: Conversation, *said: str) -> AnswerTask:
    """A task whose answer has the text `said` so far."""
    task = answers.start(ME, conversation, SamplingParams())
    await backend.taken()
    backend.send(READ)
    backend.say(*said)
    await until(lambda: task.answer is not None and shown(task) == "".join(said), "the first words")
    return task


async def done(task: AnswerTask) -> AnswerTask:
    await until(lambda: task.done, "the answer is done")
    return task
