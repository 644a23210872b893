"""The chat's behaviour: each Gradio event turned into a change of the stored conversation and a stream of updates.

The browser's copy of the history is never read: handlers get an id, check whose it is, and work on what the store holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from mllama_demo.answer import Answerer
from mllama_demo.backend.base import BackendInfo
from mllama_demo.conversation import Conversation, Message
from mllama_demo.errors import BadRequest, DemoError, NotFound
from mllama_demo.live import LiveAnswer, LiveAnswers
from mllama_demo.sampling import SamplingParams
from mllama_demo.store import Store
from mllama_demo.ui.pictures import Pictures
from mllama_demo.ui.words import facts_line, progress, status_line, title_of
from mllama_demo.visitors import visitor_of

UPDATES_PER_SECOND = 12
MAX_QUESTION_CHARACTERS = 20_000
NO_INPUT: dict[str, Any] = {"text": "", "files": []}
WORD_JOINER = "\u2060"
T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """What a handler changes on the page; None leaves a part as it is. layout.py turns it into component updates."""

    history: list[dict[str, Any]] | None = None
    conversation_id: str | None = None
    input: dict[str, Any] | None = None
    answering: bool | None = None
    conversations: list[tuple[str, str]] | None = None
    title: str | None = None
    status: str | None = None


@dataclass(frozen=True)
class Visit:
    """One open page. owner: whose conversations it may see. session: the page itself."""

    owner: str
    session: str


Views = AsyncGenerator[View, None]


def visit_of(request: gr.Request) -> Visit:
    """A visitor is a cookie, or a single page where there are no cookies."""
    session = str(request.session_hash)
    return Visit(visitor_of(request.headers.get("cookie")) or f"session-{session}", session)


def notify(error: DemoError) -> None:
    """Shows the sentence as a notice on the page, with nothing in it taken for HTML.

    Not gr.Error: raised, it would cover the whole conversation with the word "Error".
    """
    gr.Warning(html.escape(str(error)), duration=12)


class ChatRoom:
    """All chats of this process."""

    def __init__(self, answerer: Answerer, store: Store, allowed_media_hosts: list[str] | None) -> None:
        self._answerer = answerer
        self._store = store
        self._pictures = Pictures(answerer, store, allowed_media_hosts)
        self._live = LiveAnswers(answerer, store)
        # Which conversation each page shows: an answer must not write itself over another one that was opened meanwhile.
        self._showing: dict[str, str] = {}

    @property
    def info(self) -> BackendInfo:
        return self._answerer.backend.info

    @property
    def previews(self) -> Path:
        """The folder of the pictures that a page may load."""
        return self._pictures.folder

    def close(self) -> None:
        self._pictures.close()

    # --- opening and keeping --------------------------------------------------------------------------------------------

    async def open(self, visit: Visit, conversation_id: str) -> Views:
        """Shows a stored conversation and goes on with an answer under way; an empty chat when it is not there (any more)."""
        live = self._live_of(visit, conversation_id)
        try:
            conversation = live.conversation if live else await self._load(visit, conversation_id)
        except DemoError:
            # What was typed while the page opened stays.
            yield replace(await self.new(visit), input=None)
            return
        self._showing[visit.session] = conversation.id
        yield replace(await self._view(visit, conversation), answering=live is not None)
        if live is not None:
            async with aclosing(self._watch(visit, live)) as views:
                async for view in views:
                    yield view

    async def new(self, visit: Visit) -> View:
        self._showing.pop(visit.session, None)
        listed = await asyncio.to_thread(self._listed, visit.owner)
        return View([], "", NO_INPUT, False, listed, "")

    def leave(self, visit: Visit) -> None:
        """The page was closed."""
        self._showing.pop(visit.session, None)

    async def rename(self, visit: Visit, conversation_id: str, title: str) -> View:
        _refuse_nothing(conversation_id)
        self._refuse_while_answering(visit, conversation_id)
        await asyncio.to_thread(self._store.rename, visit.owner, conversation_id, title)
        listed = await asyncio.to_thread(self._listed, visit.owner)
        return View(conversation_id=conversation_id, conversations=listed, title=title.strip())

    async def delete(self, visit: Visit, conversation_id: str) -> View:
        _refuse_nothing(conversation_id)
        live = self._live_of(visit, conversation_id)
        if live is not None:
            await self._live.discard(live)
        with contextlib.suppress(NotFound) if live else contextlib.nullcontext():
            await asyncio.to_thread(self._store.delete, visit.owner, conversation_id)
        return await self.new(visit)

    # --- asking ---------------------------------------------------------------------------------------------------------

    async def ask(self, visit: Visit, conversation_id: str, value: dict[str, Any], sampling: SamplingParams) -> Views:
        """Adds the question, with its image if it has one, and streams the answer. On a failure everything is as before."""
        showing = self._showing.get(visit.session)
        message = await asyncio.to_thread(self._user_message, value)
        conversation = await self._load(visit, conversation_id) if conversation_id else Conversation()
        before = View(await asyncio.to_thread(self._history, conversation), conversation_id, value, False)
        if self._showing.get(visit.session) == showing:
            self._showing[visit.session] = conversation.id
        async with aclosing(self._answer(visit, conversation.add(message), sampling, before, NO_INPUT)) as views:
            async for view in views:
                yield view

    async def retry(self, visit: Visit, conversation_id: str, sampling: SamplingParams) -> Views:
        """Answers the last question again."""
        conversation = await self._load(visit, conversation_id)
        self._showing[visit.session] = conversation.id
        before = View(await asyncio.to_thread(self._history, conversation), answering=False)
        cut = conversation.cut(_last_question(conversation) + 1)
        async with aclosing(self._answer(visit, cut, sampling, before)) as views:
            async for view in views:
                yield view

    async def edit(self, visit: Visit, conversation_id: str, index: int, text: str, sampling: SamplingParams) -> Views:
        """Replaces a question, forgets what came after it, and answers it. The image stays."""
        conversation = await self._load(visit, conversation_id)
        self._showing[visit.session] = conversation.id
        before = View(await asyncio.to_thread(self._history, conversation), answering=False)
        if not (0 <= index < len(conversation.messages)) or conversation.messages[index].role != "user":
            raise BadRequest("Only a question can be edited.")
        edited = replace(conversation.messages[index], text=_question(from_page(text)))
        if not edited.text and edited.image is None:
            raise BadRequest("A question needs a few words or an image.")
        async with aclosing(self._answer(visit, conversation.cut(index).add(edited), sampling, before)) as views:
            async for view in views:
                yield view

    async def undo(self, visit: Visit, conversation_id: str) -> View:
        """Takes the last question back into the input, its image too."""
        self._refuse_while_answering(visit, conversation_id)
        conversation = await self._load(visit, conversation_id)
        asked = _last_question(conversation)
        message = conversation.messages[asked]
        conversation = conversation.cut(asked)
        await asyncio.to_thread(self._store.save, visit.owner, conversation)
        files = [await asyncio.to_thread(self._pictures.original, message.image)] if message.image else []
        return replace(await self._view(visit, conversation), input={"text": message.text, "files": files})

    async def stop(self, visit: Visit, conversation_id: str) -> None:
        """Ends the answer under way; what was written stays."""
        live = self._live_of(visit, conversation_id)
        if live is not None:
            self._live.stop(live)

    def _live_of(self, visit: Visit, conversation_id: str) -> LiveAnswer | None:
        """The conversation's answer under way, if it is this visitor's."""
        live = self._live.get(conversation_id)
        return live if live is not None and live.owner == visit.owner else None

    def _refuse_while_answering(self, visit: Visit, conversation_id: str) -> None:
        if self._live_of(visit, conversation_id) is not None:
            self._live.refuse_second(conversation_id)

    def status(self) -> str:
        backend = self._answerer.backend
        return status_line(backend.status(), backend.info)

    # --- questions ------------------------------------------------------------------------------------------------------

    async def fetch(self, url: str) -> str:
        """Fetches an image from a web address; the path of the file to attach."""
        return await asyncio.to_thread(self._pictures.fetch, url)

    def _user_message(self, value: dict[str, Any]) -> Message:
        text = _question(value.get("text") or "")
        files = value.get("files") or []
        if len(files) > 1:
            raise BadRequest("The model looks at one image per question; send the second one with your next question.")
        if not text and not files:
            raise BadRequest("Type a question, or add an image.")
        image = None
        if files:
            image = self._pictures.take(Path(files[0]["path"] if isinstance(files[0], dict) else files[0]))
        return Message("user", text, image)

    # --- an answer on the page ------------------------------------------------------------------------------------------

    async def _answer(
        self,
        visit: Visit,
        conversation: Conversation,
        sampling: SamplingParams,
        before: View,
        input: dict[str, Any] | None = None,
    ) -> Views:
        """Answers the conversation's last turn. before: what to show again when it cannot even begin."""
        conversation = replace(conversation, title=title_of(conversation))
        live = self._live.start(visit.owner, conversation, sampling)
        async with aclosing(self._watch(visit, live, before, input)) as views:
            async for view in views:
                yield view

    async def _watch(
        self, visit: Visit, live: LiveAnswer, before: View | None = None, input: dict[str, Any] | None = None
    ) -> Views:
        """The page's view of an answer under way, until it is done or the page shows something else."""
        history = await asyncio.to_thread(self._history, live.conversation)
        listed: list[tuple[str, str]] = []
        async with aclosing(live.watch(UPDATES_PER_SECOND)) as moments:
            async for _ in moments:
                if self._showing.get(visit.session) != live.id:
                    # Gradio repeats a generator's last view when it ends: leave it nothing of this conversation.
                    yield View()
                    return
                if not live.done:
                    shown = _bot((live.answer and live.answer.text) or progress(live.answer))
                    stored = live.answer is not None and not listed
                    listed = await asyncio.to_thread(self._listed, visit.owner) if stored else listed
                    # What was typed goes only once the question is taken: a refusal must lose nothing.
                    taken = live.answer is not None
                    now = input if taken else None
                    yield View([*history, shown], live.id, now, True, listed if stored else None, status=self.status())
                    input = None if taken else input
        if live.discarded:
            empty = await self.new(visit)
            yield replace(empty, conversations=[listed for listed in empty.conversations or [] if listed[1] != live.id])
        elif live.error is None:
            view = await self._view(visit, live.conversation)
            yield replace(view, input=input, answering=False, status=self.status())
        elif live.answer is None:
            yield before or View(answering=False)
            raise live.error
        else:
            yield replace(await self._view(visit, await self._load(visit, live.id)), input=input, answering=False)
            raise live.error

    async def _load(self, visit: Visit, conversation_id: str) -> Conversation:
        return await asyncio.to_thread(self._store.load, visit.owner, conversation_id)

    # --- showing --------------------------------------------------------------------------------------------------------

    async def _view(self, visit: Visit, conversation: Conversation) -> View:
        history = await asyncio.to_thread(self._history, conversation)
        listed = await asyncio.to_thread(self._listed, visit.owner)
        return View(history, conversation.id, conversations=listed, title=title_of(conversation))

    def _listed(self, owner: str) -> list[tuple[str, str]]:
        return [(summary.title, summary.id) for summary in self._store.list(owner)]

    def _history(self, conversation: Conversation) -> list[dict[str, Any]]:
        return [self._shown(message) for message in conversation.messages]

    def _shown(self, message: Message) -> dict[str, Any]:
        if message.role == "assistant":
            return _bot(message.text, facts_line(message))
        content: list[Any] = []
        if message.image is not None:
            alt = f"{message.image.name}, {message.image.width} × {message.image.height} pixels"
            # A component, since the chatbot shows the alternative text of no other kind of picture.
            path = self._pictures.shown(message.image)
            content.append(gr.Image(path, alt_text=alt, render=False, show_label=False, format="webp"))
        if message.text:
            content.append({"type": "text", "text": as_typed(message.text)})
        return {"role": message.role, "content": content}


async def guarded(work: Awaitable[T]) -> T | None:
    """Awaits work; an expected failure becomes a notice on the page, and None."""
    try:
        return await work
    except DemoError as error:
        notify(error)
        return None


async def guarded_stream(views: Callable[[], Views]) -> Views:
    """The same for a stream of views, which ends early; making the stream may fail too.

    Always yields something: Gradio empties every output of a generator that did not.
    """
    try:
        async with aclosing(views()) as stream:
            async for view in stream:
                yield view
    except DemoError as error:
        notify(error)
        yield View()


def as_typed(text: str) -> str:
    """A question for the page, where "<b>" would be taken for a tag and "&lt;" for a sign: an invisible joiner prevents it."""
    return re.sub(r"<(?=[A-Za-z/!?])|&(?=[A-Za-z#])", lambda found: found[0] + WORD_JOINER, text)


def from_page(text: str) -> str:
    """What was typed into a question that the page had from as_typed."""
    return text.replace("<" + WORD_JOINER, "<").replace("&" + WORD_JOINER, "&")


def _bot(text: str, facts: str = "") -> dict[str, Any]:
    content = [{"type": "text", "text": text}]
    if facts:
        content.append({"type": "text", "text": facts})
    return {"role": "assistant", "content": content}


def _question(text: str) -> str:
    text = text.strip()
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRequest("The question contains half a character, which cannot be stored; please type it again.")
    if len(text) > MAX_QUESTION_CHARACTERS:
        raise BadRequest(f"The question has {len(text)} characters; at most {MAX_QUESTION_CHARACTERS} are allowed.")
    return text


def _refuse_nothing(conversation_id: str) -> None:
    if not conversation_id:
        raise BadRequest("This chat is empty; there is nothing to rename or delete yet.")


def _last_question(conversation: Conversation) -> int:
    for index in range(len(conversation.messages) - 1, -1, -1):
        if conversation.messages[index].role == "user":
            return index
    raise BadRequest("There is no question to go back to.")
