"""Runs answers in the background and stores them.

An answer belongs to a conversation, not to a page: a reloaded page finds the running answer again. An answer that no page
watches is stopped after UNWATCHED_SECONDS, so that a closed page does not occupy a slot.
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

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.engine.base import Client
from mllama_demo.errors import BackendUnavailable, BadRequest, DemoError, cause_of
from mllama_demo.generation.service import Answer, GenerationService
from mllama_demo.runtime.failures import count_failure
from mllama_demo.runtime.logs import REQUEST_ID
from mllama_demo.sampling import SamplingParams
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.drafts import REFRESH_INTERVAL_S, Drafts
from mllama_demo.storage.threads import in_database_thread

log = logging.getLogger(__name__)

UNWATCHED_SECONDS = 30.0
STORE_AGAIN_S = 1.0  # how often an answer is stored again that could not be stored
_UNEXPECTED = "Something went wrong while answering; the server's log has the cause."


class AnswerTask:
    """One running answer.

    Attributes:
        address: The address of whoever asked.
        conversation: The conversation up to the question; after the answer is saved, up to the answer.
        beginning: The text of an earlier answer, with which this one goes on; empty for an answer from its first word.
        earlier: The conversation as it was before, up to the earlier answer where there is one.
        stopped: Whether `stop` was called.
        abandoned: Whether the answer was stopped because no page watched it.
        cut_off: Whether the answer ends because the process ends.
        discarded: Whether nothing of the answer may be stored.
        error: Why the answer failed. The stored answer has the sentence too, unless it could not be stored.
        saved: Whether the finished or failed answer is stored.
        unsaved: Whether the answer is complete, and the database did not take it yet.
        http_request_id: The id of the HTTP request that asked the question.
        watchers: Number of pages that watch the answer.
    """

    def __init__(
        self, owner: str, conversation: Conversation, tree: MessageTree | None = None, address: str = "", beginning: str = ""
    ) -> None:
        self.id = conversation.id
        self.owner, self.address = owner, address
        self.conversation, self.beginning = conversation, beginning
        self.tree = tree or MessageTree(id=conversation.id)
        self.earlier = self.tree.conversation()
        self.request_id = uuid.uuid4().hex
        self.http_request_id = REQUEST_ID.get()
        self.answer: Answer | None = None
        self.error: DemoError | None = None
        self.done = False
        self.stopped = False
        self.abandoned = False
        self.cut_off = False
        self.discarded = False
        self.saved = False
        self.unsaved = False
        self.save_lock = threading.Lock()
        self.watchers = 0
        self._changed = asyncio.Event()

    def shows(self, digest: str) -> bool:
        """Whether a message of the conversation has the image with this digest."""
        return any(message.image is not None and message.image.digest == digest for message in self.conversation.messages)

    @property
    def adds_nothing(self) -> bool:
        """Whether the answer was ended before the first word that it adds to the earlier answer."""
        answer = self.answer
        if not self.beginning or self.error is not None or answer is None or answer.text != self.beginning:
            return False
        return answer.finish is None or answer.finish.reason in ("cancelled", "time_limit")

    def notify_watchers(self) -> None:
        """Wakes all watchers."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self, timeout_s: float) -> None:
        """Returns after the next change, or after so many seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)

    async def watch(
        self, per_second: float | Callable[[], float], at_least_every_s: float | None = None
    ) -> AsyncGenerator[None, None]:
        """Yields at once, after each change, and a last time when `done` is set.

        Args:
            per_second: Highest rate of yields, or a function that returns the current one.
            at_least_every_s: Longest time between two yields while nothing changes; None for no limit.
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
    """The running answers of this process, at most one for a conversation. Used from one event loop."""

    def __init__(
        self,
        service: GenerationService,
        store: ConversationStore,
        drafts: Drafts,
        unwatched_seconds: float = UNWATCHED_SECONDS,
    ) -> None:
        self._service = service
        self._store = store
        self._drafts = drafts
        self._unwatched_seconds = unwatched_seconds
        self._by_conversation: dict[str, AnswerTask] = {}
        self._own_drafts: set[str] = set()  # conversations whose draft this process writes, or deletes at any moment
        self._asyncio_tasks: set[asyncio.Task[None]] = set()

    def get(self, conversation_id: str) -> AnswerTask | None:
        return self._by_conversation.get(conversation_id)

    def of_owner(self, owner: str) -> list[AnswerTask]:
        return [task for task in self._by_conversation.values() if task.owner == owner]

    def of_owners(self, prefix: str) -> list[AnswerTask]:
        return [task for task in self._by_conversation.values() if task.owner.startswith(prefix)]

    def require_idle(self, conversation_id: str) -> None:
        """Raises BadRequest while the conversation is being answered."""
        if conversation_id in self._by_conversation:
            raise BadRequest("This conversation is being answered already; wait for it or press Stop.")

    def start(
        self,
        owner: str,
        conversation: Conversation,
        sampling: SamplingParams,
        tree: MessageTree | None = None,
        address: str = "",
        beginning: str = "",
    ) -> AnswerTask:
        """Starts to answer the last turn. The conversation is stored as soon as the backend accepts the request.

        beginning: The text of an earlier answer, with which this one goes on.

        Raises:
            BadRequest: The conversation is being answered already.
        """
        self.require_idle(conversation.id)
        task = self._by_conversation[conversation.id] = AnswerTask(owner, conversation, tree, address, beginning)
        for coroutine in (self._run(task, sampling), self._stop_when_unwatched(task), self._save_drafts(task)):
            asyncio_task = asyncio.create_task(coroutine)
            self._asyncio_tasks.add(asyncio_task)
            asyncio_task.add_done_callback(self._asyncio_tasks.discard)
        return task

    def stop(self, task: AnswerTask) -> None:
        """Ends the answer and stores its text so far."""
        task.stopped = True
        self._service.backend.cancel(task.request_id)

    async def discard(self, task: AnswerTask) -> None:
        """Ends the answer without storing it. Returns when nothing of the answer can be stored any more."""
        task.discarded = True
        self.stop(task)
        async with aclosing(task.watch(per_second=100)) as changes:
            async for _ in changes:
                pass

    async def recover_drafts(self, owner: str) -> bool:
        """Stores the drafts that the owner's answers left when a process crashed.

        Returns:
            Whether that was possible. A database that cannot be written can perhaps be read.
        """
        try:
            await in_database_thread(self._drafts.recover, owner, frozenset(self._by_conversation))
        except BackendUnavailable:
            return False
        return True

    async def draft(self, owner: str, conversation_id: str) -> Message | None:
        """The draft of an answer that no task of this process writes, so that a page can wait for it; None where there is none.

        Another process that uses the same database writes the answer, or it ended less than drafts.LIFETIME ago. A draft that
        has expired is recovered.
        """
        found = await in_database_thread(self._drafts.get, owner, conversation_id)
        if found is None or conversation_id in self._own_drafts:
            return None
        draft, expired = found
        if expired and await self.recover_drafts(owner):
            return None
        return draft

    async def _run(self, task: AnswerTask, sampling: SamplingParams) -> None:
        saved: MessageTree | None = None
        try:
            await self._generate(task, sampling)
            saved = await self._store_until_saved(task)
        except asyncio.CancelledError:  # the process ends: no other thread can be awaited
            task.cut_off = True
            try:
                saved = self._save(task)
            except DemoError as error:
                log.error("The newest words of the answer of conversation %s are lost: %s", task.id, cause_of(error))
            raise
        except DemoError as error:  # the answer could not be stored
            log.error("The answer of conversation %s could not be stored: %s", task.id, cause_of(error))
            task.error = task.error or error
        except Exception:
            log.exception("the answer of conversation %s could not be stored", task.id)
            task.error = task.error or DemoError(_UNEXPECTED)
        finally:
            if task.error is not None and task.saved:
                count_failure(task.error)  # one that is not stored is counted when the page tells it
            # The tree with the answer and `done` change together: a page that reads between them would show the answer twice.
            if saved is not None:
                task.tree, task.conversation = saved, saved.conversation()
            del self._by_conversation[task.id]
            task.done = True
            task.notify_watchers()

    async def _store_until_saved(self, task: AnswerTask) -> MessageTree | None:
        """Stores the answer, again and again while the database fails. The page shows the answer meanwhile; it has no slot.

        Raises:
            DemoError: There is no answer, and the sentence of its failure cannot be stored.
        """
        while True:
            try:
                return await in_database_thread(self._save, task)
            except BackendUnavailable as error:
                if task.answer is None:
                    raise
                if not task.unsaved:
                    log.error("The answer of conversation %s cannot be stored yet: %s", task.id, cause_of(error))
                task.unsaved = True
                task.notify_watchers()
            await asyncio.sleep(STORE_AGAIN_S)

    async def _generate(self, task: AnswerTask, sampling: SamplingParams) -> None:
        """Streams the answer into the task. A failure becomes `task.error`."""
        try:
            client = Client(task.address, task.owner)
            answering = self._service.answer(
                task.conversation, sampling, task.request_id, client=client, beginning=task.beginning
            )
            async with aclosing(answering) as answers:
                async for answer in answers:
                    if task.stopped:  # a backend ignores the cancellation of a request that has not reached it
                        self._service.backend.cancel(task.request_id)
                    if task.answer is None and not task.discarded:
                        task.tree = await in_database_thread(self._store.save, task.owner, task.conversation)
                        task.conversation = task.tree.conversation()
                    task.answer = answer
                    task.notify_watchers()
        except DemoError as error:
            log.warning("conversation %s: %s", task.id, cause_of(error))
            task.error = error
        except Exception:
            log.exception("answering conversation %s failed", task.id)
            task.error = DemoError(_UNEXPECTED)

    async def _save_drafts(self, task: AnswerTask) -> None:
        """Stores a draft of the unfinished answer at its begin and every REFRESH_INTERVAL_S, so that a crash loses no text."""

        def save_draft() -> None:
            with task.save_lock:
                if task.answer is not None and not (task.saved or task.discarded or task.done):
                    self._drafts.put(task.owner, task.conversation, self._service.message(task.answer))

        self._own_drafts.add(task.id)
        try:
            while task.answer is None and not task.done:
                await task.wait_for_change(REFRESH_INTERVAL_S)
            while not task.done:
                with contextlib.suppress(DemoError):  # the next attempt may succeed
                    await in_database_thread(save_draft)
                await asyncio.sleep(REFRESH_INTERVAL_S)
        finally:
            # The draft is the only copy of an answer that could not be saved; recover_drafts stores it later.
            if task.saved or task.discarded:
                with contextlib.suppress(DemoError):  # a leftover draft is ignored once its conversation is longer
                    await in_database_thread(self._drafts.delete, task.id)
            self._own_drafts.discard(task.id)

    def _save(self, task: AnswerTask) -> MessageTree | None:
        """Stores the answer, or the sentence of its failure. Returns the tree with it, or None when there is nothing to store.

        An answer that should go on, and could not begin to, is stored already. The sentence would take its place. If it was ended
        before a word came, the earlier answer is shown again.
        """
        with task.save_lock:
            nothing = task.answer is None and (task.error is None or task.beginning)
            if nothing or task.discarded or task.saved:
                return None
            if task.adds_nothing:
                tree = self._store.save(task.owner, replace(task.earlier, title=task.conversation.title))
                task.saved = True
                return tree
            message = Message("assistant", "") if task.answer is None else self._service.message(task.answer)
            if task.error is not None:
                message = replace(message, metadata={**message.metadata, "reason": "error", "error": str(task.error)})
            elif task.cut_off and (task.answer is None or task.answer.finish is None):
                message = replace(message, metadata={**message.metadata, "reason": "cut_off"})
            elif task.abandoned:
                message = replace(message, metadata={**message.metadata, "reason": "abandoned"})
            if message.metadata.get("error") and task.http_request_id:
                message = replace(message, metadata={**message.metadata, "request_id": task.http_request_id})
            # Another process that could not see this one's drafts may have recovered one.
            begun = None if task.answer is None else task.tree
            tree = self._store.save(task.owner, task.conversation.add(message), begun)
            task.saved = True
            return tree

    async def _stop_when_unwatched(self, task: AnswerTask) -> None:
        unwatched = 0.0
        step = self._unwatched_seconds / 10
        while not task.done:
            await asyncio.sleep(step)
            complete = task.answer is not None and task.answer.finish is not None  # it is being stored
            unwatched = 0.0 if task.watchers or complete else unwatched + step
            if unwatched >= self._unwatched_seconds:
                task.abandoned = True
                self.stop(task)
                return
