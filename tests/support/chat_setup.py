"""A chat room with all that is behind it, the views of its handlers as they come, and what a test reads off them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
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
from mllama_demo.ui.page_update import NO_INPUT, PageSession, PageUpdate
from mllama_demo.ui.tile_view import NOTHING
from tests.support.manual_backend import READ, CodePoints, ManualBackend, finished, talk, until

PAGE, TAB = PageSession("me", "page"), PageSession("me", "another tab")
STRANGER = PageSession("a stranger", "their page")
SAMPLING = SamplingParams(seed=1)


def sampling() -> SamplingParams:
    return SAMPLING


PLACE = "59.9139 N, 10.7522 E"


def nothing_open(*listed: tuple[str, str], input: dict[str, Any] | None = NO_INPUT, **changes: Any) -> PageUpdate:
    """An empty chat beside the list of the others."""
    view = PageUpdate([], None, "", input, False, list(listed), "", found="", sight=NOTHING)
    return replace(view, **changes)


class ChatSetup:
    """A chat room with all that is behind it."""

    def __init__(self, store: ConversationStore | None = None, tokenizer: Any = None, **settings: Any) -> None:
        self.store = store or ConversationStore(Database("sqlite://"))
        self.backend = ManualBackend()
        self.answerer = GenerationService(self.backend, tokenizer or CodePoints(), self.store, Settings(**settings))
        self.room = new_service(self.answerer, self.store)

    def close(self) -> None:
        self.room.close()
        self.store.database.close()

    def keep(self, *texts: str, visit: PageSession = PAGE) -> str:
        """Stores a conversation; its id."""
        conversation = talk(*texts)
        self.store.save(visit.owner, conversation)
        return conversation.id

    def keep_picture(self, path: Path) -> str:
        """Stores a conversation of one answered question about a picture; its id."""
        image = self.store.put_image(load_image(path.read_bytes(), path.name))
        conversation = Conversation((Message("user", "What is it?", image), Message("assistant", "A square.")), title="a picture")
        self.store.save(PAGE.owner, conversation)
        return conversation.id

    def kept(self, conversation_id: str) -> list[str]:
        return [message.text for message in self.store.load(PAGE.owner, conversation_id).messages]

    def ask(
        self, text: str = "", *files: Path, conversation_id: str = "", visit: PageSession = PAGE
    ) -> AsyncGenerator[PageUpdate, None]:
        return self.page(self.room.ask(visit, conversation_id, value(text, *files), sampling), visit)

    def retry(self, conversation_id: str, visit: PageSession = PAGE) -> AsyncGenerator[PageUpdate, None]:
        return self.page(self.room.retry(visit, conversation_id, sampling), visit)

    def edit(self, conversation_id: str, index: int, text: str, visit: PageSession = PAGE) -> AsyncGenerator[PageUpdate, None]:
        return self.page(self.room.edit(visit, conversation_id, index, text, sampling), visit)

    async def page(self, views: AsyncGenerator[PageUpdate, None], visit: PageSession = PAGE) -> AsyncGenerator[PageUpdate, None]:
        """What a page shows after an event that may begin an answer: it follows the answer, and settles."""
        view = PageUpdate()
        async with aclosing(views) as stream:
            async for view in stream:
                yield view
        if view.begun:
            async for later in self.followed(visit, view.conversation_id or ""):
                yield later

    async def open(self, visit: PageSession, conversation_id: str) -> AsyncGenerator[PageUpdate, None]:
        """The same for a conversation that is opened, with an answer under way or without."""
        view = await self.room.open(visit, conversation_id)
        yield view
        if view.answering:
            async for later in self.followed(visit, conversation_id):
                yield later

    async def restore(self, visit: PageSession) -> AsyncGenerator[PageUpdate, None]:
        yield await self.room.restore(visit)

    async def followed(self, visit: PageSession, conversation_id: str) -> AsyncGenerator[PageUpdate, None]:
        failure = None
        try:
            async with aclosing(self.room.follow(visit, conversation_id)) as stream:
                async for view in stream:
                    yield view
        except DemoError as error:
            failure = error
        yield await self.room.settle(visit, conversation_id)
        if failure is not None:
            raise failure

    async def answered(self, views: AsyncGenerator[PageUpdate, None], *said: str) -> list[PageUpdate]:
        """All views of a handler whose question is answered with that."""
        seen = Seen(views)
        await self.backend.taken()
        await until(lambda: seen.views, "the page shows that it waits")
        self.backend.send(READ)
        self.backend.say(*said)
        self.backend.send(finished())
        return await seen.to_the_end()

    async def begun(self, views: AsyncGenerator[PageUpdate, None], *said: str) -> Seen:
        """The views of a handler whose answer has begun with that and is on the page."""
        seen = Seen(views)
        await self.backend.taken()
        self.backend.send(READ)
        self.backend.say(*said)
        await until(lambda: seen.views and lines(seen.views[-1])[-1] == "".join(said), "the first words are on the page")
        return seen


class Seen:
    """The views of a handler, as they come. An answer under way stands below the history that the page has already."""

    def __init__(self, views: AsyncGenerator[PageUpdate, None]) -> None:
        self.views: list[PageUpdate] = []
        self.task = asyncio.create_task(self._collect(views))

    async def _collect(self, views: AsyncGenerator[PageUpdate, None]) -> None:
        history = None
        async with aclosing(views) as stream:
            async for view in stream:
                history = history if view.history is None else view.history
                self.views.append(view if view.live is None else replace(view, history=history))

    @property
    def id(self) -> str:
        """Of the conversation that the page shows."""
        return next(view.conversation_id for view in reversed(self.views) if view.conversation_id is not None)

    async def to_the_end(self) -> list[PageUpdate]:
        await self.task
        return self.views


def value(text: str = "", *files: Path) -> dict[str, Any]:
    """What the input box sends."""
    return {"text": text, "files": [str(file) for file in files]}


def lines(view: PageUpdate) -> list[str]:
    """The text of each turn on the page."""
    assert view.history is not None or view.live is not None
    turns = [*(view.history or []), *(view.live or [])]
    return [next((part["text"] for part in turn["content"] if isinstance(part, dict)), "") for turn in turns]


def picture(folder: Path, name: str = "square.png", size: tuple[int, int] = (40, 30), exif: bool = False, **options: Any) -> Path:
    """A picture in a file. exif: with the place where it was taken."""
    image = Image.new("RGB", size, "green")
    if exif:
        metadata = Image.Exif()
        metadata[0x010E] = PLACE  # ImageDescription
        options["exif"] = metadata
    path = folder / name
    image.save(path, **options)
    return path


def picture_of(view: PageUpdate) -> ComponentMessage:
    """The picture that the page shows in the first turn."""
    assert view.history is not None
    shown = view.history[0]["content"][0]
    assert isinstance(shown, ComponentMessage)
    assert shown.component == "image"
    return shown


def preview_of(view: PageUpdate) -> Path:
    """The room's file behind that picture."""
    return Path(picture_of(view).value["path"])


async def refused(views: AsyncGenerator[PageUpdate, None], error: type[DemoError]) -> tuple[list[PageUpdate], str]:
    """What was shown before the failure, and its sentence."""
    seen = Seen(views)
    with pytest.raises(error) as caught:
        await seen.to_the_end()
    return seen.views, str(caught.value)


async def opened(house: ChatSetup, visit: PageSession, conversation_id: str) -> list[PageUpdate]:
    return await Seen(house.open(visit, conversation_id)).to_the_end()


def bar(view: PageUpdate, turn: int = -1) -> str:
    """What stands under an answer."""
    assert view.history is not None
    return view.history[turn]["content"][-1]["text"]


Act = Callable[[ChatSetup, str, PageSession], Awaitable[Any]]
CHANGES: dict[str, Act] = {
    "ask": lambda house, id, visit: Seen(house.ask("And now?", conversation_id=id, visit=visit)).to_the_end(),
    "retry": lambda house, id, visit: Seen(house.retry(id, visit)).to_the_end(),
    "edit": lambda house, id, visit: Seen(house.edit(id, 0, "Good evening?", visit)).to_the_end(),
    "undo": lambda house, id, visit: house.room.undo(visit, id),
    "rename": lambda house, id, visit: house.room.rename(visit, id, "Mine"),
    "walk": lambda house, id, visit: house.room.walk(visit, id, 0),
}
ACTS: dict[str, Act] = {
    **CHANGES,
    "delete": lambda house, id, visit: house.room.delete(visit, id),
    "stop": lambda house, id, visit: house.room.stop(visit, id),
    "look": lambda house, id, visit: house.room.images.look(visit, id, 1),
    "export": lambda house, id, visit: house.room.export(visit, id, "json"),
}
REFUSALS = [BackendBusy("The demo is busy: 8 questions are waiting."), BackendUnavailable("The model is still loading.")]


def new_service(generation: GenerationService, store: ConversationStore) -> ChatService:
    """A ChatService over `store`, wired as the composition root wires one."""
    stores = Stores.of(store)
    return ChatService(generation, AnswerTasks(generation, store, stores.drafts), stores, [])
