"""What passes between the page and the chat room: who visits, what a handler changes, and how a failure is said."""

from __future__ import annotations

import html
import logging
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from mllama_demo.errors import DemoError
from mllama_demo.web.auth.identity import owner_of_user, visitor_of

log = logging.getLogger(__name__)

# Hides a component. Not visible=False, for a change of that draws the whole page anew, and on a slow device the components
# come back with values that they had before: the question just sent would stand in its field again.
AWAY = ("away",)
NO_INPUT: dict[str, Any] = {"text": "", "files": []}
T = TypeVar("T")


@dataclass(frozen=True)
class PageUpdate:
    """What a handler changes on the page; None leaves a part as it is. chat_page.py turns it into component updates.

    history: what was said. live: the answer under way, the turn after it; a history without one ends what was there.
    conversations: pairs of title and id. found: what the search has come to, in words. sight: HTML, what the model sees.
    deleted: the title of the conversation that can be brought back; empty when there is none. thumbs: of the answers in the
    history, in the chatbot's words. begun: an answer is under way, and nothing else changes until it is done.
    """

    history: list[dict[str, Any]] | None = None
    live: list[dict[str, Any]] | None = None
    conversation_id: str | None = None
    input: dict[str, Any] | None = None
    answering: bool | None = None
    conversations: list[tuple[str, str]] | None = None
    title: str | None = None
    status: str | None = None
    found: str | None = None
    sight: str | None = None
    deleted: str | None = None
    thumbs: list[str | None] | None = None
    begun: bool = False

    def found_html(self) -> str:
        return f'<p role="status">{html.escape(self.found)}</p>' if self.found else ""

    def deleted_html(self) -> str:
        return f'<p role="status">Deleted “{html.escape(self.deleted)}”.</p>' if self.deleted else ""


def classes(shown: bool) -> list[str]:
    """The elem_classes of a component that comes and goes."""
    return [] if shown else list(AWAY)


PageUpdates = AsyncGenerator[PageUpdate, None]


@dataclass(frozen=True)
class PageSession:
    """One open page. owner: whose conversations it may see. session: the page itself."""

    owner: str
    session: str


def page_session_of(request: gr.Request) -> PageSession:
    """A visitor is who signed in, else a cookie, or a single page where there are no cookies."""
    session = str(request.session_hash)
    if request.username:
        return PageSession(owner_of_user(request.username), session)
    return PageSession(visitor_of(request.headers.get("cookie")) or f"session-{session}", session)


def notify(error: DemoError) -> None:
    """Shows the sentence as a notice on the page, with nothing in it taken for HTML.

    Not gr.Error: raised, it would cover the whole conversation with the word "Error".
    """
    gr.Warning(html.escape(str(error)), duration=12)


def _broken() -> None:
    log.exception("an event of the page failed")
    notify(DemoError("Something went wrong in the demo; its log has the cause."))


async def guarded(work: Awaitable[T]) -> T | None:
    """Awaits work; a failure becomes a notice on the page, and None."""
    try:
        return await work
    except DemoError as error:
        notify(error)
    except Exception:
        _broken()
    return None


async def guarded_stream(views: PageUpdates) -> PageUpdates:
    """The same for a stream of views, which ends early.

    Always yields something: Gradio empties every output of a generator that did not.
    """
    nothing = True
    try:
        async with aclosing(views) as stream:
            async for view in stream:
                nothing = False
                yield view
        if nothing:
            yield PageUpdate()
    except DemoError as error:
        notify(error)
        yield PageUpdate()
    except Exception:
        _broken()
        yield PageUpdate()
