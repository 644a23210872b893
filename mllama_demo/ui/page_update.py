"""What passes between the Gradio page and ChatService: who uses a page, what a handler changes, and how a failure is shown."""

from __future__ import annotations

import html
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, TypeVar

import gradio as gr

from mllama_demo.errors import DemoError
from mllama_demo.ui.gradio_patches.error_overlay import show_notice
from mllama_demo.web.auth.identity import owner_of

log = logging.getLogger(__name__)

UNEXPECTED = "Something went wrong in the demo; its log has the cause."
NO_INPUT: dict[str, Any] = {"text": "", "files": []}
T = TypeVar("T")


@dataclass(frozen=True)
class ListedConversation:
    """A row of the list of conversations. updated: when the messages last changed, UTC."""

    title: str
    id: str
    updated: datetime = field(default=datetime.fromtimestamp(0, timezone.utc), compare=False)


@dataclass(frozen=True)
class PageUpdate:
    """What a handler changes on the page. None leaves a part unchanged. ChatPage turns it into updates of components.

    Attributes:
        history: The messages of the conversation, in the chatbot's format.
        live: The answer that is being written, as one message after the history. A history without it clears it.
        conversation_id: The conversation on the page; empty for a new chat.
        input: The value of the question field.
        answering: Whether an answer is being written: Stop is shown.
        conversations: The list in the sidebar.
        title: The title of the conversation.
        status: The status line, as HTML.
        search_result: How many conversations the search finds, as a sentence.
        tile_view: What the model sees, as HTML.
        deleted: The title of the conversation that can be restored; empty when there is none.
        ratings: The ratings of the answers in the history, in the chatbot's words.
        begun: An answer has begun. Only the answer changes until it is complete.
        failed: The answer failed before it began. The history has the sentence.
    """

    history: list[dict[str, Any]] | None = None
    live: list[dict[str, Any]] | None = None
    conversation_id: str | None = None
    input: dict[str, Any] | None = None
    answering: bool | None = None
    conversations: list[ListedConversation] | None = None
    title: str | None = None
    status: str | None = None
    search_result: str | None = None
    tile_view: str | None = None
    deleted: str | None = None
    ratings: list[str | None] | None = None
    begun: bool = False
    failed: bool = False

    def search_result_html(self) -> str:
        return f'<p role="status">{html.escape(self.search_result)}</p>' if self.search_result else ""

    def deleted_html(self) -> str:
        return f'<p role="status">Deleted “{html.escape(self.deleted)}”.</p>' if self.deleted else ""


PageUpdates = AsyncGenerator[PageUpdate, None]


@dataclass(frozen=True)
class PageSession:
    """One open page.

    Attributes:
        owner: Whose conversations the page may show.
        id: The page itself: Gradio's session hash.
    """

    owner: str
    id: str

    @property
    def is_remembered(self) -> bool:
        """Whether the owner's conversations can be found again by another page: the owner is not this page alone."""
        return self.owner != _owner_without_cookie(self.id)


def _owner_without_cookie(page_id: str) -> str:
    return f"session-{page_id}"


def page_session_of(request: gr.Request) -> PageSession:
    """The owner is the signed-in user, else the visitor's cookie, else the page alone where there are no cookies."""
    return page_session(str(request.session_hash), request.headers.get("cookie"), request.username)


def page_session(page_id: str, cookie_header: str | None, user: str | None) -> PageSession:
    """The session of a page whose requests have this Cookie header and this signed-in user."""
    return PageSession(owner_of(cookie_header, user) or _owner_without_cookie(page_id), page_id)


@contextmanager
def failures_told(tell: Callable[[str], None]) -> Iterator[None]:
    """Ends the block at a failure and tells the failure as a sentence for visitors. An unexpected exception is logged."""
    try:
        yield
    except DemoError as error:
        tell(str(error))
    except Exception:
        log.exception("an event of the page failed")
        tell(UNEXPECTED)


def failures_as_notices() -> AbstractContextManager[None]:
    """Shows a failure of the block as a notice on the page, and ends the block."""
    return failures_told(show_notice)


async def guarded(work: Awaitable[T]) -> T | None:
    """The result of the work; None after a failure, which is shown as a notice."""
    with failures_as_notices():
        return await work
    return None


def text_in(event: gr.EventData, name: str) -> str:
    """A text in the data of an event of the page; empty where there is none."""
    data = event._data
    value = data.get(name) if isinstance(data, dict) else None
    return value if isinstance(value, str) else ""
