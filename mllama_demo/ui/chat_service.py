"""What the chat does: each event of the page changes stored conversations and returns an update of the page.

The history in the browser is never read. A method gets the id of a conversation, which must belong to the owner of the session,
and works on what is stored. A message tree is read from the database once for each question and passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from mllama_demo.chat.conversation import Conversation
from mllama_demo.chat.live_rendering import LiveRendering
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.config.branding import Brand
from mllama_demo.engine.base import BackendInfo
from mllama_demo.errors import BadRequest, DemoError, NotFound
from mllama_demo.generation.service import GenerationService
from mllama_demo.generation.tasks import AnswerTask, AnswerTasks
from mllama_demo.images.threads import in_image_thread
from mllama_demo.runtime.failures import report_failure
from mllama_demo.sampling import SamplingParams
from mllama_demo.storage.conversations import DELETED_LIFETIME
from mllama_demo.storage.drafts import REFRESH_INTERVAL_S
from mllama_demo.storage.stores import Stores
from mllama_demo.storage.threads import in_database_thread
from mllama_demo.ui.attachments import Attachments
from mllama_demo.ui.conversation_list import ConversationList
from mllama_demo.ui.feedback_controls import ratings_shown
from mllama_demo.ui.formatting import status_line
from mllama_demo.ui.gradio_patches.error_overlay import show_notice
from mllama_demo.ui.history import draft_message, live_message, load_history, load_tile_view
from mllama_demo.ui.image_access import ImageAccess
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.page_sessions import PageSessions
from mllama_demo.ui.page_update import NO_INPUT, PageSession, PageUpdate, PageUpdates, Version, told_with_id
from mllama_demo.ui.questions import Question, Questions, last_question
from mllama_demo.ui.session_cleanup import SessionCleanup
from mllama_demo.ui.tile_view import NO_IMAGE
from mllama_demo.ui.user_message import visible_image


class ChatService:
    """The chats of all pages of this process. Used from one event loop."""

    def __init__(
        self,
        generation: GenerationService,
        answer_tasks: AnswerTasks,
        stores: Stores,
        allowed_media_hosts: list[str] | None,
        brand: Brand | None = None,
    ) -> None:
        self._generation = generation
        self._answer_tasks = answer_tasks
        self._store, self._feedback = stores.conversations, stores.feedback
        self.pages = PageSessions()
        self._image_files = ImageFiles(generation, stores.conversations, allowed_media_hosts)
        self._conversation_list = ConversationList(
            stores.conversations, self._image_files, generation.limits, self.pages.next_version, brand
        )
        self.image_access = ImageAccess(self._image_files, stores.conversations, answer_tasks)
        self.session_cleanup = SessionCleanup(stores, self._image_files)
        self.attachments = Attachments(stores.conversations, self._image_files, self.session_cleanup)
        self.questions = Questions(stores.conversations, self._image_files, self.session_cleanup, self.pages, generation)
        self._deleting: set[str] = set()
        self._purges: set[asyncio.Task[None]] = set()

    @property
    def info(self) -> BackendInfo:
        return self._generation.backend.info

    @property
    def previews(self) -> Path:
        """The folder of the images that a page may load."""
        return self._image_files.folder

    def close(self) -> None:
        self._image_files.close()

    def close_page(self, page_id: str) -> None:
        self.pages.close_page(page_id)
        self._conversation_list.close_page(page_id)
        self.session_cleanup.close_page(page_id)

    def status(self) -> str:
        """HTML: the status line."""
        backend = self._generation.backend
        return status_line(backend.status(), backend.info)

    # --- opening and managing conversations -----------------------------------------------------------------------------

    async def open(self, session: PageSession, conversation_id: str) -> PageUpdate:
        """Shows a conversation, with the answer that is being written; a new chat when the conversation does not exist."""
        version = self.pages.next_version(session.id)
        await self._answer_tasks.recover_drafts(session.owner)
        task = self._task_of(session, conversation_id)
        try:
            tree = task.tree if task else await self._load(session, conversation_id)
        except DemoError as error:
            if conversation_id:
                gone = isinstance(error, NotFound)
                show_notice("This conversation does not exist any more, or it is not yours." if gone else told_with_id(error))
            return await self._new(session, version)
        answering = task is not None or await self._answer_tasks.draft(session.owner, conversation_id) is not None
        update = await self._show(session, tree, task.conversation if task else None, locked=answering)
        return self._chosen(version, replace(update, answering=answering))

    async def new(self, session: PageSession) -> PageUpdate:
        """Shows a new chat. What is typed stays."""
        return await self._new(session, self.pages.next_version(session.id))

    async def search(self, session: PageSession, words: str) -> PageUpdate:
        """Lists the conversations with these words in title or text."""
        return await in_database_thread(self._conversation_list.search, session, words)

    async def show_older(self, session: PageSession) -> PageUpdate:
        """Lists more conversations than before."""
        return await in_database_thread(self._conversation_list.show_older, session)

    async def rename(self, session: PageSession, conversation_id: str, title: str) -> PageUpdate:
        """Changes the title of a conversation in the list, which need not be the one on the page."""
        self._require_changeable(session, conversation_id)
        await in_database_thread(self._conversation_list.rename, session, conversation_id, title)
        listed = await self._listed(session)
        return replace(listed, title=title.strip()) if self.pages.shown(session.id) == conversation_id else listed

    async def delete(self, session: PageSession, conversation_id: str) -> PageUpdate:
        """Deletes the conversation, with an answer that is being written. For some minutes `restore` can undo it."""
        version, shows_it = self.pages.next_version(session.id), self.pages.shown(session.id) == conversation_id
        self.pages.drop_tasks(conversation_id)
        task = self._task_of(session, conversation_id)
        title = ""
        try:
            if task is not None:
                self._deleting.add(conversation_id)
                await self._answer_tasks.discard(task)
            with contextlib.suppress(NotFound) if task else contextlib.nullcontext():
                title = await in_database_thread(self._conversation_list.delete, session, conversation_id)
                self._purge_later()
        finally:
            self._deleting.discard(conversation_id)
        return replace(await (self._new(session, version) if shows_it else self._listed(session)), deleted=title)

    async def restore(self, session: PageSession) -> PageUpdate:
        """Restores and shows the conversation that this page deleted last."""
        try:
            id = await in_database_thread(self._conversation_list.restore, session)
        except (BadRequest, NotFound) as error:
            show_notice(report_failure(error))
            return PageUpdate(deleted="")  # what cannot be restored is not offered again
        return replace(await self.open(session, id), deleted="")

    async def erase(self, session: PageSession) -> PageUpdate:
        """Deletes everything of the session's owner for good, with what is typed, and shows a new chat."""
        version = self.pages.next_version(session.id)
        for task in self._answer_tasks.of_owner(session.owner):
            await self._answer_tasks.discard(task)
        await in_database_thread(self.session_cleanup.erase, session)
        return replace(await self._new(session, version), input=NO_INPUT)

    def _purge_later(self) -> None:
        async def purge() -> None:
            await asyncio.sleep(DELETED_LIFETIME.total_seconds() + 1)
            await in_database_thread(self._conversation_list.purge)

        task = asyncio.create_task(purge())
        self._purges.add(task)
        task.add_done_callback(self._purges.discard)

    async def export(self, session: PageSession, conversation_id: str, kind: str) -> str:
        """The path of a file with the conversation, to download."""
        return await in_image_thread(self._conversation_list.export, session, conversation_id, kind)

    async def import_conversation(self, session: PageSession, path: str) -> PageUpdate:
        """Stores the conversation of an exported file as a new one of this owner, and shows it."""
        version = self.pages.next_version(session.id)
        tree = await in_image_thread(self._conversation_list.import_conversation, session, Path(path))
        return self._chosen(version, replace(await self._show(session, tree), answering=False))

    async def undo(self, session: PageSession, conversation_id: str, input: dict[str, Any] | None = None) -> PageUpdate:
        """Removes the last question with its answer, and puts it into the question field, which must be empty."""
        self._require_changeable(session, conversation_id)
        if input and (input.get("text") or input.get("files")):
            raise BadRequest("Undo puts the last question into the field below; send or remove what you typed there first.")
        version = self.pages.next_version(session.id)
        conversation = (await self._load(session, conversation_id)).conversation()
        index = last_question(conversation)
        message = conversation.messages[index]
        tree = await in_database_thread(self._store.save, session.owner, conversation.cut(index))
        files = [await in_image_thread(self._image_files.original, message.image)] if message.image else []
        return self._chosen(version, replace(await self._show(session, tree), input={"text": message.text, "files": files}))

    async def select_version(self, session: PageSession, conversation_id: str, number: int) -> PageUpdate:
        """Shows another version of a question or an answer, with the messages that follow it."""
        self._require_changeable(session, conversation_id)
        version = self.pages.next_version(session.id)
        tree = await in_database_thread(self._store.select_version, session.owner, conversation_id, number)
        return self._chosen(version, await self._show(session, tree))

    async def sampling_of(self, session: PageSession, conversation_id: str, number: int) -> dict[str, Any]:
        """The sampling values of an answer. number: of the answer in the message tree."""
        answer = (await self._load(session, conversation_id)).up_to(number).messages[-1]
        if not (sampling := answer.metadata.get("sampling")):
            raise BadRequest("The sampling values of this answer are not known.")
        return sampling

    # --- answers --------------------------------------------------------------------------------------------------------

    async def answer(self, session: PageSession, question: Question, sampling: Callable[[], SamplingParams]) -> PageUpdates:
        """Starts to answer a question. Ends when the answer has begun: the page then calls `follow`, and `refresh` at the end.

        Args:
            sampling: Returns the sampling parameters, or raises BadRequest for bad ones.

        Raises:
            DemoError: The question is refused, or the failure of its answer could not be stored. The last update shows the page
                without the question. A failure that is stored stands in the conversation.
        """
        conversation = replace(question.conversation, title=question.conversation.display_title)
        if (other := self._task_of(session, conversation.id)) is not None:  # started in another tab
            shown = await self._history(other.tree, other.conversation, locked=True)
            yield replace(question.on_refusal, history=shown, answering=True)
        try:
            params = sampling()
        except DemoError:
            yield question.on_refusal
            raise
        self.pages.drop_tasks(conversation.id)
        task = self._answer_tasks.start(session.owner, conversation, params, question.tree, session.address, question.beginning)
        update, rendering = PageUpdate(await self._history(task.tree, conversation, locked=True)), LiveRendering()
        async with aclosing(self.pages.watch(session, task, rendering)) as changes:
            async for _ in changes:
                if self.pages.shown(session.id) != task.id:
                    return
                if task.done:
                    break
                if task.answer is not None:
                    # The question is stored now. Only now is the question field emptied: a refusal must lose nothing.
                    update = await self._show(session, task.tree, task.conversation, locked=True)
                    update = replace(update, input=question.input, begun=True)
                    if len(conversation.messages) > 1:
                        update = replace(update, title=None)  # the visitor may be typing another title
                live = [await live_message(task, self.info.told_context, rendering)]
                if self.pages.shown(session.id) != task.id:
                    return
                yield replace(update, live=live, conversation_id=task.id, answering=True, status=self.status())
                if update.begun:
                    self.pages.keep_task(session, task)
                    return
                update = PageUpdate()
        if task.discarded:
            yield await self._deleted_elsewhere(session, task.id, question.version)
        elif task.saved or task.answer is not None:
            complete = await self._show(session, task.tree)
            failed = task.error is not None
            complete = replace(complete, input=question.input, answering=False, version=question.version)
            yield replace(complete, status=self.status(), failed=failed)
        else:
            yield question.on_refusal
        if task.error is not None and not (task.saved or task.discarded):
            raise task.error

    async def follow(self, session: PageSession, conversation_id: str) -> PageUpdates:
        """Updates the page with the conversation's answer until the answer is complete or the page shows something else.

        Raises:
            DemoError: The answer failed, and the failure could not be stored.
        """
        task = self._task_of(session, conversation_id)
        if not conversation_id or not self.pages.start_following(session, conversation_id):
            return
        rendering = LiveRendering()
        try:
            if task is None:
                async for live in self._drafts(session, conversation_id, rendering):
                    yield PageUpdate(live=live)
                return
            self.pages.keep_task(session, task)
            async with aclosing(self.pages.watch(session, task, rendering)) as changes:
                async for _ in changes:
                    live = [] if task.done else [await live_message(task, self.info.told_context, rendering)]
                    if self.pages.shown(session.id) != task.id:
                        return
                    if not task.done:
                        yield PageUpdate(live=live)
        finally:
            self.pages.stop_following(session, conversation_id)
        if task.error is not None and not task.saved:
            raise task.error

    async def _drafts(
        self, session: PageSession, conversation_id: str, rendering: LiveRendering
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Yields the answer that another process writes, until it is stored, or until its draft expires."""
        while self.pages.shown(session.id) == conversation_id:
            if (draft := await self._answer_tasks.draft(session.owner, conversation_id)) is None:
                return
            yield [await draft_message(draft.text, rendering)]
            await asyncio.sleep(REFRESH_INTERVAL_S)

    async def refresh(self, session: PageSession, conversation_id: str) -> PageUpdate:
        """Shows the conversation as it is stored, after `follow`. The title stays: the visitor may be typing another."""
        version = self.pages.version(session.id)
        if not conversation_id or self.pages.shown(session.id) != conversation_id:
            return PageUpdate()
        if conversation_id in self._deleting:
            return await self._deleted_elsewhere(session, conversation_id, version)
        if self._task_of(session, conversation_id) is not None:
            return PageUpdate(answering=True)
        try:
            tree = self.pages.take_tree(session, conversation_id) or await self._load(session, conversation_id)
            update = await self._show(session, tree)
        except NotFound:
            return await self._deleted_elsewhere(session, conversation_id, version)
        return replace(update, title=None, answering=False, status=self.status(), version=version)

    async def stop(self, session: PageSession, conversation_id: str) -> None:
        """Ends the answer that is being written. What is written so far is kept."""
        task = self._task_of(session, conversation_id)
        if task is not None:
            self._answer_tasks.stop(task)

    async def _deleted_elsewhere(self, session: PageSession, conversation_id: str, version: Version) -> PageUpdate:
        """A new chat for a page whose conversation another page has deleted or is deleting now."""
        update = await self._new(session, version)
        listed = [one for one in update.conversations or [] if one.id != conversation_id]
        return replace(update, conversations=listed)

    def _task_of(self, session: PageSession, conversation_id: str) -> AnswerTask | None:
        """The answer that is being written in the conversation, if it belongs to the session's owner."""
        task = self._answer_tasks.get(conversation_id)
        return task if task is not None and task.owner == session.owner else None

    def _require_changeable(self, session: PageSession, conversation_id: str) -> None:
        """Raises BadRequest while the conversation is being answered."""
        if self._task_of(session, conversation_id) is not None:
            self._answer_tasks.require_idle(conversation_id)
        self.pages.drop_tasks(conversation_id)

    # --- what a page shows ----------------------------------------------------------------------------------------------

    def _chosen(self, version: Version, update: PageUpdate) -> PageUpdate:
        """The update of an event that has chosen what the page shows. version: from the beginning of the event."""
        self.pages.show(version, update.conversation_id or "")
        return replace(update, version=version)

    async def _new(self, session: PageSession, version: Version) -> PageUpdate:
        empty = replace(
            await self._listed(session), history=[], conversation_id="", answering=False, title="", tile_view=NO_IMAGE
        )
        return self._chosen(version, empty)

    async def _load(self, session: PageSession, conversation_id: str) -> MessageTree:
        return await in_database_thread(self._store.tree, session.owner, conversation_id)

    async def _listed(self, session: PageSession) -> PageUpdate:
        return await in_database_thread(self._conversation_list.listed, session)

    async def _show(
        self, session: PageSession, tree: MessageTree, conversation: Conversation | None = None, locked: bool = False
    ) -> PageUpdate:
        """The page with this conversation. conversation: other messages than those that the tree shows."""
        conversation = conversation or tree.conversation()
        shown = await self._history(tree, conversation, locked)
        listed = await self._listed(session)
        tile_view = await load_tile_view(self._image_files, visible_image(conversation))
        ratings = await in_database_thread(self._feedback.ratings, session.owner, conversation.id)
        return replace(
            listed,
            history=shown,
            conversation_id=conversation.id,
            title=conversation.display_title,
            tile_view=tile_view,
            ratings=ratings_shown(tree, ratings),
        )

    async def _history(
        self, tree: MessageTree, conversation: Conversation | None = None, locked: bool = False
    ) -> list[dict[str, Any]]:
        conversation = conversation or tree.conversation()
        return await load_history(conversation, tree, self._image_files, locked, self._generation.can_continue)
