"""Answers under way over a backend played by hand, and pages that watch them."""

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
from tests.support.manual_backend import READ, CodePoints, ManualBackend, talk, until

OFTEN = 1000.0  # looks a second: nearly every change is seen


def new_answers(store: ConversationStore, backend: ManualBackend, **options: Any) -> AnswerTasks:
    return AnswerTasks(GenerationService(backend, CodePoints(), store, Settings()), store, Drafts(store), **options)


ME = "me"
HELLO = talk("Hello?")
EARLIER = talk("Hello?", "Hi.", "And now?")


def texts(store: ConversationStore, conversation: Conversation) -> list[str]:
    """What the store holds of it."""
    return [message.text for message in store.load(ME, conversation.id).messages]


def shown(live: AnswerTask) -> str:
    return live.answer.text if live.answer else ""


async def watch(live: AnswerTask, until_shown: str | None = None) -> str:
    """Watches until that text is there, or to the end; what was seen last."""
    async with aclosing(live.watch(OFTEN)) as moments:
        async for _ in moments:
            if until_shown is not None and shown(live) == until_shown:
                break
    return shown(live)


async def begin(answers: AnswerTasks, backend: ManualBackend, conversation: Conversation, *said: str) -> AnswerTask:
    """An answer under way that has said something already."""
    live = answers.start(ME, conversation, SamplingParams())
    await backend.taken()
    backend.send(READ)
    backend.say(*said)
    await until(lambda: live.answer is not None and shown(live) == "".join(said), "the first words")
    return live


async def done(live: AnswerTask) -> AnswerTask:
    await until(lambda: live.done, "the answer is done")
    return live
