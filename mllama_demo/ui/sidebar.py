"""The left sidebar: the owner's conversations, searched, renamed, deleted, exported and imported."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import gradio as gr

from mllama_demo.storage.conversations import MAX_SEARCH_LENGTH, MAX_TITLE_LENGTH
from mllama_demo.ui.chat_service import ChatService
from mllama_demo.ui.gradio_patches.download import DOWNLOAD
from mllama_demo.ui.gradio_patches.hidden_components import visibility_classes
from mllama_demo.ui.gradio_patches.text_changes import on_text_change
from mllama_demo.ui.page_update import PageSession, PageUpdate, guarded
from mllama_demo.ui.share_controls import ShareControls

EXPORTS = (("HTML", "html"), ("Markdown", "md"), ("JSON", "json"))


class Sidebar:
    """The components and their handlers.

    Args:
        updates: Turns a PageUpdate into updates of components.
        session_of: Returns the session of a request.
        sign_out: Whether there is a link to sign out.
    """

    def __init__(
        self,
        service: ChatService,
        updates: Callable[[PageUpdate | None], dict[Any, Any]],
        share: ShareControls,
        session_of: Callable[[gr.Request], PageSession],
        sign_out: bool = False,
    ) -> None:
        self._service, self._share, self._session_of, self._sign_out = service, share, session_of, sign_out
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
        self.conversations = gr.Radio([], label="Conversations", elem_id="conversations", interactive=True)
        self.menu = gr.Accordion(
            "This conversation", open=False, elem_id="conversation-menu", elem_classes=visibility_classes(False)
        )
        with self.menu:
            self.title = gr.Textbox(label="Title", max_lines=1, max_length=MAX_TITLE_LENGTH, elem_id="conversation-title")
            with gr.Row():
                self.rename = gr.Button("Rename", size="sm", elem_id="rename", min_width=80)
                self.delete = gr.Button("Delete", size="sm", elem_id="delete", min_width=80)
            gr.HTML("Export as", elem_id="export-label", padding=False)
            with gr.Row(elem_id="exports"):
                self.exports = [
                    (gr.Button(label, size="sm", elem_id=f"export-{kind}", min_width=50), kind) for label, kind in EXPORTS
                ]
            self.exported = gr.File(visible=False)
            self._share.lay_out()
        self.import_conversation = gr.UploadButton(
            "Import a JSON export", file_types=[".json"], size="sm", elem_id="import", variant="secondary"
        )
        if self._sign_out:
            gr.HTML('<a href="/logout">Sign out</a>', elem_id="sign-out", padding=False)

    @property
    def outputs(self) -> list[Any]:
        """The components that a PageUpdate may change."""
        return [self.conversations, self.menu, self.title, self.search_result, self.deleted, self.deleted_title]

    def updates(self, update: PageUpdate) -> dict[Any, Any]:
        """The updates of these components."""
        updates: dict[Any, Any] = {}
        if update.conversations is not None:
            listed = {id for _, id in update.conversations}
            selected = update.conversation_id if update.conversation_id in listed else None
            updates[self.conversations] = gr.update(choices=update.conversations, value=selected)
        if update.conversation_id is not None:
            updates[self.menu] = gr.update(elem_classes=visibility_classes(bool(update.conversation_id)))
        if update.title is not None:
            updates[self.title] = update.title
        if update.search_result is not None:
            updates[self.search_result] = update.search_result_html()
        if update.deleted is not None:
            updates[self.deleted] = gr.update(elem_classes=visibility_classes(bool(update.deleted)))
            updates[self.deleted_title] = update.deleted_html()
        return updates

    def wire(
        self,
        conversation_id: gr.Textbox,
        then_stream_answer: Callable[[Any], None],
        silent_event: dict[str, Any],
        page_event: dict[str, Any],
    ) -> None:
        """Connects the handlers.

        Args:
            then_stream_answer: Follows, after an event, the answer that is being written in the opened conversation.
            silent_event: The arguments of every event.
            page_event: The arguments of events that may change any part of the page.
        """
        self.new_chat.click(self._new, None, **page_event)
        then_stream_answer(self.conversations.input(self._open, self.conversations, **page_event))
        on_text_change(self.search, self._search, **page_event)
        self.rename.click(self._rename, [conversation_id, self.title], **page_event)
        self.title.submit(self._rename, [conversation_id, self.title], **page_event)
        self.delete.click(self._delete, conversation_id, **page_event)
        then_stream_answer(self.restore.click(self._restore, None, **page_event))
        self.import_conversation.upload(self._import, self.import_conversation, **page_event)
        self._share.wire(conversation_id, silent_event)
        for button, kind in self.exports:
            made = button.click(self._exporter(kind), conversation_id, self.exported, **silent_event)
            made.then(None, self.exported, None, js=DOWNLOAD, api_visibility="private")

    async def _update(self, work: Awaitable[PageUpdate]) -> dict[Any, Any]:
        return self._updates(await guarded(work))

    async def _new(self, request: gr.Request) -> dict[Any, Any]:
        return await self._update(self._service.new(self._session_of(request)))

    async def _open(self, request: gr.Request, conversation_id: str) -> dict[Any, Any]:
        return await self._update(self._service.open(self._session_of(request), conversation_id))

    async def _search(self, words: str, request: gr.Request) -> dict[Any, Any]:
        return await self._update(self._service.search(self._session_of(request), words))

    async def _rename(self, conversation_id: str, title: str, request: gr.Request) -> dict[Any, Any]:
        return await self._update(self._service.rename(self._session_of(request), conversation_id, title))

    async def _delete(self, conversation_id: str, request: gr.Request) -> dict[Any, Any]:
        return await self._update(self._service.delete(self._session_of(request), conversation_id))

    async def _restore(self, request: gr.Request) -> dict[Any, Any]:
        return await self._update(self._service.restore(self._session_of(request)))

    async def _import(self, path: str | None, request: gr.Request) -> dict[Any, Any]:
        if not path:
            return self._updates(None)
        return await self._update(self._service.import_conversation(self._session_of(request), path))

    def _exporter(self, kind: str) -> Callable[..., Any]:
        async def export(conversation_id: str, request: gr.Request) -> str | None:
            session = self._session_of(request)
            path = await guarded(self._service.export(session, conversation_id, kind))
            if path is not None:
                self._service.session_cleanup.note(session.id, [Path(path)])
            return path

        return export
