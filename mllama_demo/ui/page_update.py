"""What passes between the Gradio page and ChatService: who uses a page, what a handler changes, and how a failure is shown."""

from __future__ import annotations

import html
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, TypeVar

import gradio as gr

from mllama_demo.errors import DemoError
from mllama_demo.runtime.failures import log_bug, report_failure
from mllama_demo.runtime.logs import REQUEST_ID
from mllama_demo.runtime.threads import CLIENT
from mllama_demo.ui.gradio_patches.error_overlay import show_notice
from mllama_demo.web.auth.identity import owner_of
from mllama_demo.web.request_ids import request_id_of

log = logging.getLogger(__name__)

UNEXPECTED = "Something went wrong in the demo; its log has the cause."
# What the names of owners begin with that are one page: of a browser without cookies, and of a kiosk.
PAGE_OWNERS = COOKIELESS, KIOSK = "session-", "kiosk-"
NO_INPUT: dict[str, Any] = {"text": "", "files": []}
T = TypeVar("T")
Version = tuple[str, int]  # a page, and a number that is higher for what is newer


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
        older: Whether there are older conversations, which the list does not have yet.
        title: The title of the conversation.
        status: The status line, as HTML.
        search_result: How many conversations of the list the search finds, as a sentence.
        tile_view: What the model sees, as HTML.
        deleted: The title of the conversation that can be restored; empty when there is none.
        ratings: The ratings of the answers in the history, in the chatbot's words.
        begun: An answer has begun. Only the answer changes until it is complete.
        failed: The answer failed before it began. The history has the sentence.
        version: Of the conversation, from the event that chose it. PageSessions.current drops what is older than what the page
            shows; None is never dropped.
        list_version: The same of the list, from when it was read.
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
    older: bool = False
    begun: bool = False
    failed: bool = False
    version: Version | None = field(default=None, compare=False)
    list_version: Version | None = field(default=None, compare=False)

    def without_conversation(self) -> PageUpdate:
        """What the update changes beside the conversation: the list, the status and what can be restored."""
        return PageUpdate(
            conversations=self.conversations,
            older=self.older,
            search_result=self.search_result,
            status=self.status,
            deleted=self.deleted,
            list_version=self.list_version,
        )

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
        address: The address of the visitor's machine.
    """

    owner: str
    id: str
    address: str = field(default="", compare=False)

    @property
    def is_remembered(self) -> bool:
        """Whether the owner's conversations can be found again by another page: the owner is not this page alone."""
        return self.owner != _owner_without_cookie(self.id)


def _owner_without_cookie(page_id: str) -> str:
    return f"{COOKIELESS}{page_id}"


def page_session_of(request: gr.Request) -> PageSession:
    """The owner is the signed-in user, else the visitor's cookie, else the page alone where there are no cookies.

    From here on the log lines of the event have the id of its HTTP request, and threads know for whom they work. Gradio runs the
    event in a task of its queue.
    """
    http_request = getattr(request, "request", None)  # Gradio also makes requests out of values alone
    REQUEST_ID.set(request_id_of(http_request.scope) if http_request is not None else "")
    session = page_session(str(request.session_hash), request.headers.get("cookie"), request.username)
    session = replace(session, address=request.client.host if request.client else "")
    CLIENT.set((session.address, session.owner))
    return session


def page_session(page_id: str, cookie_header: str | None, user: str | None) -> PageSession:
    """The session of a page whose requests have this Cookie header and this signed-in user."""
    return PageSession(owner_of(cookie_header, user) or _owner_without_cookie(page_id), page_id)


@contextmanager
def failures_told(tell: Callable[[str], None]) -> Iterator[None]:
    """Ends the block at a failure and tells the failure as a sentence for visitors. An unexpected exception is logged."""
    try:
        yield
    except DemoError as error:
        tell(told_with_id(error))
    except Exception:
        log_bug(log, "an event of the page failed")
        tell(_with_request_id(UNEXPECTED))


def told_with_id(error: DemoError) -> str:
    """The sentence for the visitor, with the id of the request unless the failure is the visitor's own mistake.

    The operator finds the failure by this id. Counts and logs the failure, as `report_failure` does.
    """
    sentence = report_failure(error)
    return _with_request_id(sentence) if error.status >= 429 else sentence


def _with_request_id(sentence: str) -> str:
    return f"{sentence} (Request {id})" if (id := REQUEST_ID.get()) else sentence


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
