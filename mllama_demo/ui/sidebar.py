"""The left drawer: a visitor's conversations, searched, renamed, deleted, exported and imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from mllama_demo.storage.conversations import MAX_SEARCH_LENGTH, MAX_TITLE_LENGTH
from mllama_demo.ui.chat_service import ChatService
from mllama_demo.ui.page_update import PageSession, PageUpdate, classes, guarded
from mllama_demo.ui.share_controls import ShareControls

DOWNLOAD = """(file) => {
  if (!file) return;
  const link = document.createElement("a");
  link.href = file.url; link.download = file.orig_name;
  document.body.append(link); link.click(); link.remove();
}"""
EXPORTS = (("HTML", "html"), ("Markdown", "md"), ("JSON", "json"))


class Sidebar:
    """Its components and its wiring. updates: turns a PageUpdate into updates of components. visit: who sends a request.

    people: whether they sign in.
    """

    def __init__(
        self,
        room: ChatService,
        updates: Callable[[PageUpdate | None], dict[Any, Any]],
        share: ShareControls,
        visit: Callable[[gr.Request], PageSession],
        people: bool = False,
    ) -> None:
        self._room, self._share, self._visit, self._people = room, share, visit, people
        self._updates = updates

    def lay_out(self) -> None:
        self.new_chat = gr.Button("New chat", variant="primary", elem_id="new-chat")
        with gr.Row(elem_classes=classes(False), elem_id="deleted") as self.deleted:
            self.deleted_title = gr.HTML(elem_id="deleted-title", padding=False)
            self.bring_back = gr.Button("Undo", size="sm", elem_id="bring-back", min_width=70, scale=0)
        self.search = gr.Textbox(
            show_label=False, label="Search conversations", placeholder="Search", max_lines=1, elem_id="search",
            max_length=MAX_SEARCH_LENGTH, container=False,
        )  # fmt: skip
        self.found = gr.HTML(elem_id="found", padding=False)
        self.conversations = gr.Radio([], label="Conversations", elem_id="conversations", interactive=True)
        self.menu = gr.Accordion("This conversation", open=False, elem_id="conversation-menu", elem_classes=classes(False))
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
        if self._people:
            gr.HTML('<a href="/logout">Sign out</a>', elem_id="sign-out", padding=False)

    @property
    def outputs(self) -> list[Any]:
        """What a PageUpdate may change here."""
        return [self.conversations, self.menu, self.title, self.found, self.deleted, self.deleted_title]

    def updates(self, view: PageUpdate) -> dict[Any, Any]:
        """The components here that a PageUpdate changes."""
        updates: dict[Any, Any] = {}
        if view.conversations is not None:
            known = {id for _, id in view.conversations}
            shown = view.conversation_id if view.conversation_id in known else None
            updates[self.conversations] = gr.update(choices=view.conversations, value=shown)
        if view.conversation_id is not None:
            updates[self.menu] = gr.update(elem_classes=classes(bool(view.conversation_id)))
        if view.title is not None:
            updates[self.title] = view.title
        if view.found is not None:
            updates[self.found] = view.found_html()
        if view.deleted is not None:
            updates[self.deleted] = gr.update(elem_classes=classes(bool(view.deleted)))
            updates[self.deleted_title] = view.deleted_html()
        return updates

    def wire(
        self, conversation_id: gr.Textbox, go_on: Callable[[Any], None], quiet: dict[str, Any], talk: dict[str, Any]
    ) -> None:
        """quiet: what every event has; talk: the same for those that may change anything on the page. go_on: follows an answer
        that an event has found under way."""
        self.new_chat.click(self._new, None, **talk)
        go_on(self.conversations.input(self._open, self.conversations, **talk))
        # Not input, which a pasted or a cleared text does not fire.
        self.search.change(self._search, self.search, trigger_mode="always_last", **talk)
        self.rename.click(self._rename, [conversation_id, self.title], **talk)
        self.title.submit(self._rename, [conversation_id, self.title], **talk)
        self.delete.click(self._delete, conversation_id, **talk)
        go_on(self.bring_back.click(self._restore, None, **talk))
        self.import_conversation.upload(self._bring_in, self.import_conversation, **talk)
        self._share.wire(conversation_id, quiet)
        for button, kind in self.exports:
            made = button.click(self._exporter(kind), conversation_id, self.exported, **quiet)
            made.then(None, self.exported, None, js=DOWNLOAD, api_visibility="private")

    async def _new(self, request: gr.Request) -> dict[Any, Any]:
        return self._updates(await guarded(self._room.new(self._visit(request))))

    async def _open(self, request: gr.Request, conversation_id: str) -> dict[Any, Any]:
        return self._updates(await guarded(self._room.open(self._visit(request), conversation_id)))

    async def _search(self, words: str, request: gr.Request) -> dict[Any, Any]:
        return self._updates(await guarded(self._room.search(self._visit(request), words)))

    async def _rename(self, conversation_id: str, title: str, request: gr.Request) -> dict[Any, Any]:
        return self._updates(await guarded(self._room.rename(self._visit(request), conversation_id, title)))

    async def _delete(self, conversation_id: str, request: gr.Request) -> dict[Any, Any]:
        return self._updates(await guarded(self._room.delete(self._visit(request), conversation_id)))

    async def _restore(self, request: gr.Request) -> dict[Any, Any]:
        return self._updates(await guarded(self._room.restore(self._visit(request))))

    async def _bring_in(self, path: str | None, request: gr.Request) -> dict[Any, Any]:
        return self._updates(await guarded(self._room.import_conversation(self._visit(request), path)) if path else None)

    def _exporter(self, kind: str) -> Callable[..., Any]:
        async def export(conversation_id: str, request: gr.Request) -> str | None:
            visit = self._visit(request)
            path = await guarded(self._room.export(visit, conversation_id, kind))
            if path is not None:
                self._room.traces.note(visit.session, [Path(path)])
            return path

        return export
