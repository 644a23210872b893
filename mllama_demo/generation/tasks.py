"""Answers under way. They belong to the conversation, not to a page: a reload or a second tab finds them again.

An answer that nobody has watched for a while is ended, so that a closed tab gives its slot back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from mllama_demo.chat.conversation import Conversation
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.errors import BadRequest, DemoError
from mllama_demo.generation.service import Answer, GenerationService
from mllama_demo.sampling import SamplingParams
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.drafts import REFRESH_INTERVAL_S, Drafts

log = logging.getLogger(__name__)

UNWATCHED_SECONDS = 30.0


class AnswerTask:
    """One answer under way. conversation: as asked; once done without an error, with the answer."""

    def __init__(self, owner: str, conversation: Conversation, tree: MessageTree | None = None) -> None:
        self.id = conversation.id
        self.owner = owner
        self.conversation = conversation
        self.tree = tree or MessageTree(id=conversation.id)
        self.request_id = uuid.uuid4().hex
        self.answer: Answer | None = None
        self.error: DemoError | None = None
        self.done = False
        self.stopped = False
        self.abandoned = False
        self.discarded = False
        self.kept = False
        self.keeping = threading.Lock()
        self.watchers = 0
        self._changed = asyncio.Event()

    def change(self) -> None:
        """Wakes everybody who watches."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch(
        self, per_second: float | Callable[[], float], at_least_every_s: float | None = None
    ) -> AsyncGenerator[None, None]:
        """Yields now and after changes, at most per_second times a second, until it has yielded with `done` set.

        at_least_every_s: yields so often while nothing changes, for those who show how long it takes.
        """
        self.watchers += 1
        try:
            while not self.done:
                changed, began = self._changed, time.monotonic()
                yield
                rate = per_second() if callable(per_second) else per_second
                await asyncio.sleep(began + 1 / rate - time.monotonic())
                if not self.done:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(changed.wait(), at_least_every_s)
            yield
        finally:
            self.watchers -= 1


class AnswerTasks:
    """All answers under way in this process, at most one for a conversation. Used from one event loop."""

    def __init__(
        self,
        answerer: GenerationService,
        store: ConversationStore,
        drafts: Drafts,
        unwatched_seconds: float = UNWATCHED_SECONDS,
    ) -> None:
        self._answerer = answerer
        self._store = store
        self._drafts = drafts
        self._unwatched_seconds = unwatched_seconds
        self._live: dict[str, AnswerTask] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, conversation_id: str) -> AnswerTask | None:
        return self._live.get(conversation_id)

    def of(self, owner: str) -> list[AnswerTask]:
        """All of one owner's."""
        return [live for live in self._live.values() if live.owner == owner]

    def refuse_second(self, conversation_id: str) -> None:
        """Raises BadRequest while the conversation is being answered."""
        if conversation_id in self._live:
            raise BadRequest("This conversation is being answered already; wait for it or press Stop.")

    def start(
        self, owner: str, conversation: Conversation, sampling: SamplingParams, tree: MessageTree | None = None
    ) -> AnswerTask:
        """Begins to answer the last turn. The conversation is stored once the backend took the request."""
        self.refuse_second(conversation.id)
        live = self._live[conversation.id] = AnswerTask(owner, conversation, tree)
        for work in (self._run(live, sampling), self._end_when_unwatched(live), self._draft(live)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return live

    def stop(self, live: AnswerTask) -> None:
        """Ends the answer; what was written is kept."""
        live.stopped = True
        self._answerer.backend.cancel(live.request_id)

    async def discard(self, live: AnswerTask) -> None:
        """Ends the answer and keeps nothing of it; returns when nothing more will be stored."""
        live.discarded = True
        self.stop(live)
        async with aclosing(live.watch(per_second=100)) as moments:
            async for _ in moments:
                pass

    async def adopt(self, owner: str) -> None:
        """Keeps what a program that was killed, or could not store it, had written for this owner."""
        await asyncio.to_thread(self._drafts.recover, owner, frozenset(self._live))

    async def _run(self, live: AnswerTask, sampling: SamplingParams) -> None:
        try:
            async with aclosing(self._answerer.answer(live.conversation, sampling, live.request_id)) as answers:
                async for answer in answers:
                    if live.stopped:
                        # Said again, since the backend ignores what it is told before it knows the request.
                        self._answerer.backend.cancel(live.request_id)
                    if live.answer is None and not live.discarded:
                        live.tree = await asyncio.to_thread(self._store.save, live.owner, live.conversation)
                        live.conversation = live.tree.conversation()
                    live.answer = answer
                    live.change()
            await asyncio.to_thread(self._keep, live)
        except asyncio.CancelledError:
            # The program is ending: what came so far is kept.
            self._keep(live)
            raise
        except DemoError as error:
            live.error = error
        except Exception:
            log.exception("answering conversation %s failed", live.id)
            live.error = DemoError("Something went wrong while answering; the server's log has the cause.")
        finally:
            del self._live[live.id]
            live.done = True
            live.change()

    async def _draft(self, live: AnswerTask) -> None:
        """Stores what there is of the answer, again and again, in case this program does not live to keep it."""

        def put() -> None:
            with live.keeping:
                if live.answer is not None and not (live.kept or live.discarded or live.done):
                    self._drafts.put(live.owner, live.conversation, self._answerer.message(live.answer))

        try:
            while not live.done:
                with contextlib.suppress(DemoError):  # the next one may do
                    await asyncio.to_thread(put)
                await asyncio.sleep(REFRESH_INTERVAL_S)
        finally:
            # Of an answer that could not be kept it is the only copy: the next to open the conversation adopts it.
            if live.kept or live.discarded:
                with contextlib.suppress(DemoError):  # one that stays is not adopted: its conversation has gone on
                    await asyncio.to_thread(self._drafts.delete, live.id)

    def _keep(self, live: AnswerTask) -> None:
        with live.keeping:
            if live.answer is None or live.discarded or live.kept:
                return
            message = self._answerer.message(live.answer)
            if live.abandoned:
                message = replace(message, metadata={**message.metadata, "reason": "abandoned"})
            live.tree = self._store.save(live.owner, live.conversation.add(message))
            live.conversation = live.tree.conversation()
            live.kept = True

    async def _end_when_unwatched(self, live: AnswerTask) -> None:
        unwatched = 0.0
        step = self._unwatched_seconds / 10
        while not live.done:
            await asyncio.sleep(step)
            unwatched = 0.0 if live.watchers else unwatched + step
            if unwatched >= self._unwatched_seconds:
                live.abandoned = True
                self.stop(live)
                return
