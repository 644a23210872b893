# pyright: reportArgumentType=false
"""A ChatService on a ManualBackend, the page updates of its methods in order, and what a test reads from them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gradio.components.chatbot import ComponentMessage
from PIL import Image

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.config.settings import Settings
from mllama_demo.errors import BackendBusy, BackendUnavailable, DemoError
from mllama_demo.generation.service import GenerationService
from mllama_demo.generation.tasks import AnswerTasks
from mllama_demo.images.loading import load_image
from mllama_demo.sampling import SamplingParams
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.stores import Stores
from mllama_demo.ui.chat_service import ChatService
from mllama_demo.ui.page_update import ListedConversation, PageSession, PageUpdate
from mllama_demo.ui.question_edit import QuestionEdit
from mllama_demo.ui.questions import Question
from mllama_demo.ui.tile_view import NO_IMAGE
from tests.support.code_points import CodePoints
from tests.support.manual_backend import READ, ManualBackend, conversation_of, finished
from tests.support.page_text import Page
from tests.support.waiting import until

PAGE, TAB = PageSession("me", "page"), PageSession("me", "another tab")
OTHER_OWNER = PageSession("another owner", "their page")
SAMPLING = SamplingParams(seed=1)
PLACE = "59.9139 N, 10.7522 E"
REQUEST: Any = SimpleNamespace(
    session_hash="one", query_params={}, username=None, headers={}, client=None
)  # what of Gradio's request is read
Updates = AsyncGenerator[PageUpdate, None]


def new_chat(*listed: tuple[str, str], **changes: Any) -> PageUpdate:
    """The update that shows a new chat. listed: title and id of each conversation in the list."""
    rows = [ListedConversation(title, id) for title, id in listed]
    update = PageUpdate([], None, "", None, False, rows, "", search_result="", tile_view=NO_IMAGE)
    return replace(update, **changes)


def new_service(generation: GenerationService, store: ConversationStore) -> ChatService:
    """A ChatService over `store`, wired as the composition root wires one."""
    stores = Stores.of(store)
    return ChatService(generation, AnswerTasks(generation, store, stores.drafts), stores, [])


class ChatSetup:
    """A ChatService with its store and its backend."""

    def __init__(self, store: ConversationStore | None = None, tokenizer: Any = None, **settings: Any) -> None:
        self.store = store or ConversationStore(Database("sqlite://"))
        self.backend = ManualBackend()
        self.generation = GenerationService(self.backend, tokenizer or CodePoints(), self.store, Settings(**settings))
        self.service = new_service(self.generation, self.store)

    def close(self) -> None:
        self.service.close()
        self.store.database.close()

    # --- stored conversations ------------------------------------------------------------------------------------------

    def store_conversation(self, *texts: str, session: PageSession = PAGE) -> str:
        """Stores a conversation and returns its id."""
        return self.store.save(session.owner, conversation_of(*texts)).id

    def store_image_conversation(self, path: Path) -> str:
        """Stores a conversation of one answered question about an image, and returns its id."""
        image = self.store.put_image(load_image(path.read_bytes(), path.name))
        conversation = Conversation((Message("user", "What is it?", image), Message("assistant", "A square.")), title="a picture")
        return self.store.save(PAGE.owner, conversation).id

    def stored_texts(self, conversation_id: str) -> list[str]:
        return [message.text for message in self.store.load(PAGE.owner, conversation_id).messages]

    # --- what a page does ----------------------------------------------------------------------------------------------

    async def begin(self, question: Awaitable[Question], session: PageSession = PAGE) -> Updates:
        """The updates of the event that asks a question, until its answer has begun."""
        async with aclosing(self.service.answer(session, await question, lambda: SAMPLING)) as updates:
            async for update in updates:
                yield update

    async def show(self, question: Awaitable[Question], session: PageSession = PAGE) -> Updates:
        """The updates of a page that asks a question and follows the answer to its end."""
        update = PageUpdate()
        async with aclosing(self.begin(question, session)) as updates:
            async for update in updates:
                yield update
        if update.begun:
            async for later in self.follow(session, update.conversation_id or ""):
                yield later

    def ask(self, text: str = "", *files: Path, conversation_id: str = "", session: PageSession = PAGE) -> Updates:
        return self.show(self.service.questions.ask(session, conversation_id, value(text, *files)), session)

    def retry(self, conversation_id: str, session: PageSession = PAGE) -> Updates:
        return self.show(self.service.questions.retry(session, conversation_id), session)

    def edit(self, conversation_id: str, number: int, text: str, session: PageSession = PAGE, **image: Any) -> Updates:
        """image: the other fields of a QuestionEdit."""
        edit = QuestionEdit(number, text, **image)
        return self.show(self.service.questions.edit(session, conversation_id, edit), session)

    async def open(self, session: PageSession, conversation_id: str) -> Updates:
        """The updates of a page that opens a conversation and follows the answer that is being written, if there is one."""
        update = await self.service.open(session, conversation_id)
        yield update
        if update.answering:
            async for later in self.follow(session, conversation_id):
                yield later

    async def follow(self, session: PageSession, conversation_id: str) -> Updates:
        failure = None
        try:
            async with aclosing(self.service.follow(session, conversation_id)) as updates:
                async for update in updates:
                    yield update
        except DemoError as error:
            failure = error
        yield await self.service.refresh(session, conversation_id)
        if failure is not None:
            raise failure

    async def answered(self, updates: Updates, *texts: str) -> list[PageUpdate]:
        """All updates of a page whose question is answered with these texts."""
        collected = CollectedUpdates(updates)
        await self.backend.taken()
        await until(lambda: collected.updates, "the page shows that it waits")
        self.backend.send(READ)
        self.backend.say(*texts)
        self.backend.send(finished())
        return await collected.all()

    async def begun(self, updates: Updates, *texts: str) -> CollectedUpdates:
        """The updates of a page whose answer has begun with these texts."""
        collected = CollectedUpdates(updates)
        await self.backend.taken()
        self.backend.send(READ)
        self.backend.say(*texts)
        shown = lambda: collected.updates and texts_shown(collected.updates[-1])[-1] == "".join(texts).strip()  # noqa: E731
        await until(shown, "the first words are on the page")
        return collected


class CollectedUpdates:
    """The updates of a page in order. One with only an answer gets the history that the page shows already."""

    def __init__(self, updates: Updates) -> None:
        self.updates: list[PageUpdate] = []
        self._task = asyncio.create_task(self._collect(updates))

    async def _collect(self, updates: Updates) -> None:
        history = None
        async with aclosing(updates) as stream:
            async for update in stream:
                history = history if update.history is None else update.history
                self.updates.append(update if update.live is None else replace(update, history=history))

    @property
    def id(self) -> str:
        """The id of the conversation on the page."""
        return next(update.conversation_id for update in reversed(self.updates) if update.conversation_id is not None)

    async def all(self) -> list[PageUpdate]:
        """Waits for the last update."""
        await self._task
        return self.updates


def value(text: str = "", *files: Path) -> dict[str, Any]:
    """A value of the question field."""
    return {"text": text, "files": [str(file) for file in files]}


def texts_shown(update: PageUpdate) -> list[str]:
    """The text of each message on the page."""
    assert update.history is not None or update.live is not None
    messages = [*(update.history or []), *(update.live or [])]
    return [
        next((visible_text(part["text"]) for part in message["content"] if isinstance(part, dict)), "") for message in messages
    ]


def visible_text(html: str) -> str:
    """The text of a part of a message, without the names of its buttons."""
    page = Page(html)
    return page.text.removesuffix("\n") if "rendered-text" in html else page.text


def metadata_shown(update: PageUpdate, index: int = -1) -> str:
    """The HTML under an answer. index: of its message in the history."""
    assert update.history is not None
    return update.history[index]["content"][-1]["text"]


def image_file(
    folder: Path, name: str = "square.png", size: tuple[int, int] = (40, 30), exif: bool = False, **options: Any
) -> Path:
    """Writes an image. exif: with the place where it was taken."""
    image = Image.new("RGB", size, "green")
    if exif:
        metadata = Image.Exif()
        metadata[0x010E] = PLACE  # ImageDescription
        options["exif"] = metadata
    path = folder / name
    image.save(path, **options)
    return path


def image_shown(update: PageUpdate) -> ComponentMessage:
    """The image in the first message on the page."""
    assert update.history is not None
    shown = update.history[0]["content"][0]
    assert isinstance(shown, ComponentMessage)
    assert shown.component == "image"
    return shown


def preview_path(update: PageUpdate) -> Path:
    """The file of that image."""
    return Path(image_shown(update).value["path"])


async def refused_updates(updates: Updates, error: type[DemoError]) -> tuple[list[PageUpdate], str]:
    """The updates before the failure, and its sentence."""
    collected = CollectedUpdates(updates)
    with pytest.raises(error) as caught:
        await collected.all()
    return collected.updates, str(caught.value)


async def open_updates(chat: ChatSetup, session: PageSession, conversation_id: str) -> list[PageUpdate]:
    return await CollectedUpdates(chat.open(session, conversation_id)).all()


Action = Callable[[ChatSetup, str, PageSession], Awaitable[Any]]
CHANGES: dict[str, Action] = {
    "ask": lambda chat, id, session: CollectedUpdates(chat.ask("And now?", conversation_id=id, session=session)).all(),
    "retry": lambda chat, id, session: CollectedUpdates(chat.retry(id, session)).all(),
    "edit": lambda chat, id, session: CollectedUpdates(chat.edit(id, 0, "Good evening?", session)).all(),
    "undo": lambda chat, id, session: chat.service.undo(session, id),
    "rename": lambda chat, id, session: chat.service.rename(session, id, "Mine"),
    "select_version": lambda chat, id, session: chat.service.select_version(session, id, 0),
}
ACTIONS: dict[str, Action] = {
    **CHANGES,
    "delete": lambda chat, id, session: chat.service.delete(session, id),
    "stop": lambda chat, id, session: chat.service.stop(session, id),
    "preview": lambda chat, id, session: chat.service.attachments.preview(session, id, 1),
    "export": lambda chat, id, session: chat.service.export(session, id, "json"),
}
REFUSALS = [BackendBusy("The demo is busy: 8 questions are waiting."), BackendUnavailable("The model is still loading.")]
