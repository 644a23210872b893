"""The left sidebar: the owner's conversations, searched, opened, renamed, shared, deleted, exported and imported.

static/conversations.js groups the rows by date and has the menu of a row. It sends events of the component `script`, whose data
name the conversation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from mllama_demo.storage.conversations import MAX_SEARCH_LENGTH
from mllama_demo.ui.chat_service import ChatService
from mllama_demo.ui.event_scripts import SHOW_TITLE
from mllama_demo.ui.gradio_patches.download import DOWNLOAD
from mllama_demo.ui.gradio_patches.hidden_components import visibility_classes
from mllama_demo.ui.gradio_patches.text_changes import on_text_change
from mllama_demo.ui.page_update import ListedConversation, PageSession, PageUpdate, guarded, text_in
from mllama_demo.ui.share_controls import ShareControls
from mllama_demo.web.auth.login import has_admin_mark

ACTIONS = "Rename, share, export or delete"
NEWEST_ONLY: dict[str, Any] = {"trigger_mode": "always_last"}  # who clicks three rows sees the last of them


class Sidebar:
    """The components and their handlers.

    Args:
        updates: Turns a PageUpdate into updates of components.
        session_of: Returns the session of a request.
        admins: The users who see the way to the operator's page.
    """

    def __init__(
        self,
        service: ChatService,
        updates: Callable[[PageUpdate | None], dict[Any, Any]],
        share: ShareControls,
        session_of: Callable[[gr.Request], PageSession],
        admins: frozenset[str] = frozenset(),
    ) -> None:
        self._service, self._share, self._session_of, self._admins = service, share, session_of, admins
        self._updates = updates

    def lay_out(self) -> None:
        self.new_chat = gr.Button("New chat", variant="primary", elem_id="new-chat")
        with gr.Row(elem_classes=visibility_classes(False), elem_id="deleted") as self.deleted:
            self.deleted_title = gr.HTML(elem_id="deleted-title", padding=False)
            self.restore = gr.Button("Undo", size="sm", elem_id="restore", min_width=70, scale=0)
        self.search = gr.Textbox(
            show_label=False, label="Search conversations", placeholder="Search", max_lines=1, elem_id="search",
            max_length=MAX_SEARCH_LENGTH, container=False,
        )  # fmt: skip
        self.search_result = gr.HTML(elem_id="search-result", padding=False)
        self.conversations = gr.HTML(elem_id="conversations", padding=False)
        self.title = gr.Textbox(visible=False)
        self.exported = gr.File(visible=False)
        self.import_conversation = gr.UploadButton(
            "Import a JSON export", file_types=[".json"], size="sm", elem_id="import", variant="secondary"
        )
        self.account = gr.HTML("", elem_id="account", padding=False)

    @property
    def outputs(self) -> list[Any]:
        """The components that a PageUpdate may change."""
        return [self.conversations, self.title, self.search_result, self.deleted, self.deleted_title, self.account]

    def account_html(self, request: gr.Request) -> str:
        """HTML: who is signed in, the way to the operator's page for whoever may open it, and the way out."""
        user = request.username
        parts = [] if user is None else [f"<span>Signed in as <b>{escape(user)}</b></span>"]
        if user in self._admins or has_admin_mark(request.headers.get("cookie")):
            parts.append('<a href="admin">Operator’s page</a>')
        if user is not None:
            parts.append('<a href="logout">Sign out</a>')
        return " ".join(parts)

    def updates(self, update: PageUpdate) -> dict[Any, Any]:
        """The updates of these components."""
        updates: dict[Any, Any] = {}
        if update.conversations is not None:
            updates[self.conversations] = rows_html(update.conversations, update.older)
        if update.search_result is not None:
            updates[self.search_result] = update.search_result_html()
        if update.title is not None:
            updates[self.title] = update.title
        if update.deleted is not None:
            updates[self.deleted] = gr.update(elem_classes=visibility_classes(bool(update.deleted)))
            updates[self.deleted_title] = update.deleted_html()
        return updates

    def wire(
        self,
        script: gr.HTML,
        then_stream_answer: Callable[[Any], None],
        silent_event: dict[str, Any],
        page_event: dict[str, Any],
    ) -> None:
        """Connects the handlers.

        Args:
            script: The component whose events conversations.js sends.
            then_stream_answer: Follows, after an event, the answer that is being written in the opened conversation.
            silent_event: The arguments of every event.
            page_event: The arguments of events that may change any part of the page.
        """
        self.new_chat.click(self._new, None, **page_event)
        then_stream_answer(script.select(self._open, None, **page_event, **NEWEST_ONLY))
        on_text_change(self.search, self._search, **page_event)
        script.end(self._show_older, None, **page_event)
        script.submit(self._rename, None, **page_event)
        script.delete(self._delete, None, **page_event)
        then_stream_answer(self.restore.click(self._restore, None, **page_event))
        self.import_conversation.upload(self._import, self.import_conversation, **page_event)
        self.title.change(None, self.title, None, js=SHOW_TITLE, api_visibility="private")
        exported = script.download(self._export, None, self.exported, **silent_event)
        exported.then(None, self.exported, None, js=DOWNLOAD, api_visibility="private")
        self._share.wire(script, silent_event)

    async def _update(self, work: Awaitable[PageUpdate]) -> dict[Any, Any]:
        return self._updates(await guarded(work))

    async def _new(self, request: gr.Request) -> dict[Any, Any]:
        return await self._update(self._service.new(self._session_of(request)))

    async def _open(self, request: gr.Request, event: gr.EventData) -> dict[Any, Any]:
        return await self._update(self._service.open(self._session_of(request), text_in(event, "id")))

    async def _search(self, words: str, request: gr.Request) -> dict[Any, Any]:
        return await self._update(self._service.search(self._session_of(request), words))

    async def _show_older(self, request: gr.Request) -> dict[Any, Any]:
        return await self._update(self._service.show_older(self._session_of(request)))

    async def _rename(self, request: gr.Request, event: gr.EventData) -> dict[Any, Any]:
        session = self._session_of(request)
        return await self._update(self._service.rename(session, text_in(event, "id"), text_in(event, "title")))

    async def _delete(self, request: gr.Request, event: gr.EventData) -> dict[Any, Any]:
        return await self._update(self._service.delete(self._session_of(request), text_in(event, "id")))

    async def _restore(self, request: gr.Request) -> dict[Any, Any]:
        return await self._update(self._service.restore(self._session_of(request)))

    async def _import(self, path: str | None, request: gr.Request) -> dict[Any, Any]:
        if not path:
            return self._updates(None)
        return await self._update(self._service.import_conversation(self._session_of(request), path))

    async def _export(self, request: gr.Request, event: gr.EventData) -> str | None:
        session = self._session_of(request)
        path = await guarded(self._service.export(session, text_in(event, "id"), text_in(event, "kind")))
        if path is not None:
            self._service.session_cleanup.note(session.id, [Path(path)])
        return path


def rows_html(conversations: Sequence[ListedConversation], older: bool) -> str:
    """HTML: the list. conversations.js marks the row of the conversation on the page. older: there are more conversations."""
    rows = "".join(
        f'<li data-updated="{1000 * one.updated.timestamp():.0f}">'
        f'<a href="?c={escape(one.id)}" data-id="{escape(one.id)}" dir="auto">'
        f'{escape(one.title)}</a><button type="button" class="row-actions" aria-haspopup="menu" aria-expanded="false"'
        f' title="{ACTIONS}" aria-label="{ACTIONS}: {escape(one.title)}"></button></li>'
        for one in conversations
    )
    button = '<button type="button" id="show-older">Show older ones</button>' if older else ""
    return f'<nav aria-label="Conversations"><ol>{rows}</ol>{button}</nav>' if rows else ""
