"""The chat's behaviour: each Gradio event turned into a change of the stored conversation and a stream of updates.

The browser's copy of the history is never read: handlers get an id, check whose it is, and work on what the store holds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from mllama_demo.chat.conversation import Conversation
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.config.branding import Brand
from mllama_demo.engine.base import BackendInfo
from mllama_demo.errors import BadRequest, DemoError, NotFound
from mllama_demo.generation.service import GenerationService
from mllama_demo.generation.tasks import AnswerTask, AnswerTasks
from mllama_demo.sampling import SamplingParams
from mllama_demo.storage.conversations import DELETED_LIFETIME
from mllama_demo.storage.stores import Stores
from mllama_demo.ui.attachments import Attachments
from mllama_demo.ui.conversation_list import ConversationList
from mllama_demo.ui.feedback_controls import thumbs
from mllama_demo.ui.formatting import status_line
from mllama_demo.ui.history import history
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.page_sessions import PageSessions
from mllama_demo.ui.page_update import NO_INPUT, PageSession, PageUpdate, PageUpdates, notify
from mllama_demo.ui.session_cleanup import SessionCleanup
from mllama_demo.ui.tile_view import NOTHING
from mllama_demo.ui.user_message import WhichImage, from_page, paths, question_from, reworded, seen_in

# The parameters for an answer; they may be refused as well, with what was typed still there.
Sampling = Callable[[], SamplingParams]


class ChatService:
    """All chats of this process."""

    def __init__(
        self,
        answerer: GenerationService,
        tasks: AnswerTasks,
        stores: Stores,
        allowed_media_hosts: list[str] | None,
        brand: Brand | None = None,
    ) -> None:
        self._answerer = answerer
        self._store = store = stores.conversations
        self._pictures = ImageFiles(answerer, store, allowed_media_hosts)
        self._live = tasks
        self._shelf = ConversationList(store, self._pictures, answerer.limits, brand)
        self._feedback = stores.feedback
        self.traces = SessionCleanup(stores, self._pictures)
        self.images = Attachments(store, self._pictures, self.traces)
        self.pages = PageSessions()
        self._deleting: set[str] = set()
        self._purges: set[asyncio.Task[None]] = set()

    @property
    def info(self) -> BackendInfo:
        return self._answerer.backend.info

    @property
    def previews(self) -> Path:
        """The folder of the pictures that a page may load."""
        return self._pictures.folder

    def close(self) -> None:
        self._pictures.close()

    def status(self) -> str:
        backend = self._answerer.backend
        return status_line(backend.status(), backend.info)

    # --- opening and keeping --------------------------------------------------------------------------------------------

    async def open(self, visit: PageSession, conversation_id: str) -> PageUpdate:
        """Shows a stored conversation, with an answer under way; an empty chat when it is not there (any more)."""
        await self._live.adopt(visit.owner)
        live = self._live_of(visit, conversation_id)
        try:
            conversation = live.conversation if live else await self._load(visit, conversation_id)
        except DemoError:
            # What was typed while the page opened stays.
            return replace(await self.new(visit), input=None)
        self.pages.show(visit.session, conversation.id)
        return replace(await self._view(visit, conversation, locked=live is not None), answering=live is not None)

    async def new(self, visit: PageSession) -> PageUpdate:
        listed = await asyncio.to_thread(self._shelf.listed, visit)
        self.pages.show(visit.session, "")
        return replace(listed, history=[], conversation_id="", input=NO_INPUT, answering=False, title="", sight=NOTHING)

    def leave(self, session: str) -> None:
        """The page was closed."""
        self.pages.leave(session)
        self._shelf.leave(session)
        self.traces.leave(session)

    async def search(self, visit: PageSession, words: str) -> PageUpdate:
        """Lists the conversations with these words in title or text."""
        found = await asyncio.to_thread(self._shelf.search, visit, words)
        return replace(found, conversation_id=self.pages.shown(visit.session))

    async def rename(self, visit: PageSession, conversation_id: str, title: str) -> PageUpdate:
        self._refuse_while_answering(visit, conversation_id)
        await asyncio.to_thread(self._shelf.rename, visit, conversation_id, title)
        listed = await asyncio.to_thread(self._shelf.listed, visit)
        return replace(listed, conversation_id=conversation_id, title=title.strip())

    async def delete(self, visit: PageSession, conversation_id: str) -> PageUpdate:
        """Deletes the conversation; restore brings it back for a while."""
        live = self._live_of(visit, conversation_id)
        title = ""
        try:
            if live is not None:
                self._deleting.add(conversation_id)
                await self._live.discard(live)
            with contextlib.suppress(NotFound) if live else contextlib.nullcontext():
                title = await asyncio.to_thread(self._shelf.delete, visit, conversation_id)
                self._purge_later()
        finally:
            self._deleting.discard(conversation_id)
        return replace(await self.new(visit), deleted=title)

    async def forget(self, visit: PageSession) -> PageUpdate:
        """Removes all that the visitor left, with answers under way; the first screen. Nothing brings it back."""
        for live in self._live.of(visit.owner):
            await self._live.discard(live)
        await asyncio.to_thread(self.traces.erase, visit)
        return await self.new(visit)

    async def restore(self, visit: PageSession) -> PageUpdate:
        """Brings back and shows what this page deleted last. What cannot come back is not offered any longer."""
        try:
            id = await asyncio.to_thread(self._shelf.restore, visit)
        except (BadRequest, NotFound) as error:
            notify(error)
            return PageUpdate(deleted="")
        return replace(await self.open(visit, id), deleted="")

    def _purge_later(self) -> None:
        async def purge() -> None:
            await asyncio.sleep(DELETED_LIFETIME.total_seconds() + 1)
            await asyncio.to_thread(self._store.purge)

        task = asyncio.create_task(purge())
        self._purges.add(task)
        task.add_done_callback(self._purges.discard)

    async def export(self, visit: PageSession, conversation_id: str, kind: str) -> str:
        """The path of a file with the conversation, to download."""
        return await asyncio.to_thread(self._shelf.export, visit, conversation_id, kind)

    async def import_conversation(self, visit: PageSession, path: str) -> PageUpdate:
        """Shows the conversation of an exported file, now one of the visitor's own."""
        tree = await asyncio.to_thread(self._shelf.import_conversation, visit, Path(path))
        self.pages.show(visit.session, tree.id)
        return replace(await self._view(visit, tree.conversation()), answering=False)

    # --- asking ---------------------------------------------------------------------------------------------------------

    async def ask(
        self,
        visit: PageSession,
        conversation_id: str,
        value: dict[str, Any],
        sampling: Sampling,
        which: WhichImage = "newest",
        typed: bool = True,
    ) -> PageUpdates:
        """Adds the question, with its image if it has one; to the point where its answer begins. A failure leaves all as before.

        which: the image that the model shall see when there are several. typed: the question stands in the input, and goes
        from there once it is taken.
        """
        showing = self.pages.shown(visit.session)
        conversation = await self._load(visit, conversation_id) if conversation_id else Conversation()
        self.traces.note(visit.session, paths(value))
        message = await asyncio.to_thread(question_from, value, conversation, which, self._pictures)
        self.traces.note(visit.session, [], message.image)
        before = PageUpdate(await self._history(visit, conversation), conversation_id=conversation_id, answering=False)
        if typed:
            before = replace(before, input=value)
        if self.pages.shown(visit.session) == showing:
            self.pages.show(visit.session, conversation.id)
        async with aclosing(
            self._answer(visit, conversation.add(message), sampling, before, NO_INPUT if typed else None)
        ) as views:
            async for view in views:
                yield view

    async def retry(self, visit: PageSession, conversation_id: str, sampling: Sampling) -> PageUpdates:
        """Answers the last question again; the answer so far stays as another version."""
        conversation = await self._load(visit, conversation_id)
        self.pages.show(visit.session, conversation.id)
        before = PageUpdate(await self._history(visit, conversation), answering=False)
        cut = conversation.cut(_last_question(conversation) + 1)
        async with aclosing(self._answer(visit, cut, sampling, before)) as views:
            async for view in views:
                yield view

    async def edit(
        self,
        visit: PageSession,
        conversation_id: str,
        index: int,
        text: str,
        sampling: Sampling,
        typed: dict[str, Any] | None = None,
    ) -> PageUpdates:
        """Asks a question in other words; the old ones, with all that came after, stay as another version. So does the image.

        typed: what stands in the input, where the new words go when they are refused: the chatbot has them no more.
        """
        text = from_page(text)
        conversation = await self._load(visit, conversation_id)
        self.pages.show(visit.session, conversation.id)
        typed = typed or NO_INPUT
        words = "\n".join(part for part in (typed.get("text"), text) if part and part.strip())
        before = PageUpdate(await self._history(visit, conversation), answering=False, input={**typed, "text": words})
        try:
            edited = reworded(conversation, index, text)
        except DemoError:
            yield before
            raise
        async with aclosing(self._answer(visit, conversation.cut(index).add(edited), sampling, before)) as views:
            async for view in views:
                yield view

    async def undo(self, visit: PageSession, conversation_id: str, typed: dict[str, Any] | None = None) -> PageUpdate:
        """Takes the last question back into the input, its image too. typed: what stands there, which must not be lost."""
        self._refuse_while_answering(visit, conversation_id)
        if typed and (typed.get("text") or typed.get("files")):
            raise BadRequest("Undo puts the last question into the field below; send or remove what you typed there first.")
        conversation = await self._load(visit, conversation_id)
        asked = _last_question(conversation)
        message = conversation.messages[asked]
        conversation = conversation.cut(asked)
        await asyncio.to_thread(self._store.save, visit.owner, conversation)
        files = [await asyncio.to_thread(self._pictures.original, message.image)] if message.image else []
        return replace(await self._view(visit, conversation), input={"text": message.text, "files": files})

    async def walk(self, visit: PageSession, conversation_id: str, number: int) -> PageUpdate:
        """Shows another version of a question or an answer, with what follows it."""
        self._refuse_while_answering(visit, conversation_id)
        tree = await asyncio.to_thread(self._store.select_version, visit.owner, conversation_id, number)
        self.pages.show(visit.session, conversation_id)
        return await self._view(visit, tree.conversation())

    async def follow(self, visit: PageSession, conversation_id: str) -> PageUpdates:
        """The conversation's answer while it is under way."""
        live = self._live_of(visit, conversation_id)
        if live is not None:
            async with aclosing(self.pages.follow(visit, live, self.info.context_length)) as views:
                async for view in views:
                    yield view

    async def settle(self, visit: PageSession, conversation_id: str) -> PageUpdate:
        """What the page shows once nothing is followed any more. A title that is being typed stays."""
        if not conversation_id or self.pages.shown(visit.session) != conversation_id:
            return PageUpdate()  # it shows something else by now
        if conversation_id in self._deleting:
            return await self._deleted_elsewhere(visit, conversation_id)
        if self._live_of(visit, conversation_id) is not None:
            return PageUpdate(answering=True)
        try:
            view = await self._view(visit, await self._load(visit, conversation_id))
        except NotFound:
            return await self._deleted_elsewhere(visit, conversation_id)
        if self.pages.shown(visit.session) != conversation_id:
            return PageUpdate()  # it was left, or deleted, just now
        return replace(view, title=None, answering=False, status=self.status())

    async def stop(self, visit: PageSession, conversation_id: str) -> None:
        """Ends the answer under way; what was written stays."""
        live = self._live_of(visit, conversation_id)
        if live is not None:
            self._live.stop(live)

    async def _deleted_elsewhere(self, visit: PageSession, conversation_id: str) -> PageUpdate:
        """An empty chat, though with what is typed, for a conversation that is being deleted if it is not gone already."""
        empty = await self.new(visit)
        listed = [pair for pair in empty.conversations or [] if pair[1] != conversation_id]
        return replace(empty, input=None, conversations=listed)

    def _live_of(self, visit: PageSession, conversation_id: str) -> AnswerTask | None:
        """The conversation's answer under way, if it is this visitor's."""
        live = self._live.get(conversation_id)
        return live if live is not None and live.owner == visit.owner else None

    def _refuse_while_answering(self, visit: PageSession, conversation_id: str) -> None:
        if self._live_of(visit, conversation_id) is not None:
            self._live.refuse_second(conversation_id)

    # --- an answer on the page ------------------------------------------------------------------------------------------

    async def _answer(
        self,
        visit: PageSession,
        conversation: Conversation,
        sampling: Sampling,
        before: PageUpdate,
        input: dict[str, Any] | None = None,
    ) -> PageUpdates:
        """Answers the conversation's last turn; the views until the answer begins, which the page then follows.

        before: what to show again when it cannot even begin. input: what stands in the input once it has begun.
        """
        conversation = replace(conversation, title=conversation.display_title)
        if (other := self._live_of(visit, conversation.id)) is not None:  # begun from another tab
            shown = await self._history(visit, other.conversation, locked=True)
            yield replace(before, history=shown, answering=True)
        try:
            chosen = sampling()
        except DemoError:
            yield before
            raise
        live = self._live.start(visit.owner, conversation, chosen)
        view = PageUpdate(await self._history(visit, conversation, locked=True))
        async with aclosing(self.pages.turns(visit, live, self.info.context_length)) as turns:
            async for turn in turns:
                if turn is None:
                    yield PageUpdate()
                    return
                if live.answer is not None:
                    # It is stored now. What was typed goes only once the question is taken: a refusal must lose nothing.
                    view = replace(await self._view(visit, conversation, locked=True), input=input, begun=True)
                    if len(conversation.messages) > 1:
                        view = replace(view, title=None)  # somebody may be typing another one
                yield replace(view, live=[turn], conversation_id=live.id, answering=True, status=self.status())
                if view.begun:
                    return
                view = PageUpdate()
        if live.discarded:
            yield await self._deleted_elsewhere(visit, live.id)
        elif live.error is None:
            yield replace(await self._view(visit, live.conversation), input=input, answering=False, status=self.status())
        elif live.answer is None:
            yield before
            raise live.error
        else:
            yield replace(await self._view(visit, await self._load(visit, live.id)), input=input, answering=False)
            raise live.error

    # --- showing --------------------------------------------------------------------------------------------------------

    async def _load(self, visit: PageSession, conversation_id: str) -> Conversation:
        return await asyncio.to_thread(self._store.load, visit.owner, conversation_id)

    async def _view(self, visit: PageSession, conversation: Conversation, locked: bool = False) -> PageUpdate:
        shown = await self._history(visit, conversation, locked)
        listed = await asyncio.to_thread(self._shelf.listed, visit)
        sight = await asyncio.to_thread(self._pictures.sight, seen_in(conversation))
        view = replace(listed, history=shown, conversation_id=conversation.id, title=conversation.display_title, sight=sight)
        return replace(view, thumbs=await asyncio.to_thread(self._thumbs, visit, conversation.id))

    def _thumbs(self, visit: PageSession, conversation_id: str) -> list[str | None]:
        try:
            return thumbs(self._store.tree(visit.owner, conversation_id), self._feedback.ratings(visit.owner, conversation_id))
        except NotFound:  # not stored yet
            return []

    async def _history(self, visit: PageSession, conversation: Conversation, locked: bool = False) -> list[dict[str, Any]]:
        def made() -> list[dict[str, Any]]:
            try:
                tree = self._store.tree(visit.owner, conversation.id)
            except NotFound:  # not stored yet
                tree = MessageTree()
            return history(conversation, tree, self._pictures, locked)

        return await asyncio.to_thread(made)


def _last_question(conversation: Conversation) -> int:
    for index in range(len(conversation.messages) - 1, -1, -1):
        if conversation.messages[index].role == "user":
            return index
    raise BadRequest("There is no question to go back to.")
