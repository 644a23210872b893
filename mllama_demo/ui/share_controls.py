"""The dialog that shares a conversation by a link, and that ends the sharing."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import gradio as gr

from mllama_demo.storage.shares import DEFAULT_LIFETIME, LIFETIMES, Shares
from mllama_demo.storage.threads import in_database_thread
from mllama_demo.ui.event_scripts import OPEN_SHARE_DIALOG
from mllama_demo.ui.gradio_patches.hidden_components import visibility_classes
from mllama_demo.ui.page_update import PageSession, guarded, text_in

# The server does not know the address at which a browser reaches it.
FULL_ADDRESS = """(path) => path && new URL(path, new URL(".", window.location.href)).href"""
SELECT_LINK = """(path) => path && setTimeout(() => document.querySelector("#share-link :is(input, textarea)")?.select(), 100)"""


class ShareControls:
    """The components and their handlers. session_of: returns the session of a request."""

    def __init__(self, shares: Shares, session_of: Callable[[gr.Request], PageSession]) -> None:
        self._shares, self._session_of = shares, session_of

    def lay_out(self) -> None:
        self.path = gr.Textbox(visible=False)
        self.conversation_id = gr.Textbox(visible=False)
        with gr.Column(elem_id="share-dialog", elem_classes=["page-dialog", *visibility_classes(False)]):
            self.heading = gr.HTML(elem_id="share-heading", padding=False)
            with gr.Row(elem_id="share-row"):
                self.lifetime = gr.Dropdown(
                    list(LIFETIMES),
                    value=DEFAULT_LIFETIME,
                    label="Share for",
                    elem_id="share-for",
                    filterable=False,
                    min_width=90,
                )
                self.share = gr.Button("Share", size="sm", elem_id="share", variant="primary", min_width=70, scale=0)
            self.link = gr.Textbox(
                label="Link, shown this once",
                elem_id="share-link",
                interactive=False,
                elem_classes=visibility_classes(False),
                max_lines=1,
                buttons=["copy"],
            )
            self.status = gr.Markdown(elem_classes=visibility_classes(False), elem_id="share-status")
            with gr.Row(elem_id="share-end"):
                self.end = gr.Button("Stop sharing", size="sm", elem_id="stop-sharing", elem_classes=visibility_classes(False))
                gr.Button("Close", size="sm", elem_id="close-share", elem_classes="close-dialog")

    def wire(self, script: gr.HTML, silent_event: dict[str, Any]) -> None:
        """Connects the handlers. script: the component whose event `apply` names the conversation to share."""
        parts = [self.path, self.link, self.status, self.end]
        dialog = [self.heading, self.conversation_id, *parts]
        opened = script.apply(self._open, None, dialog, **silent_event)
        opened.success(None, None, None, js=OPEN_SHARE_DIALOG, api_visibility="private")
        made = self.share.click(self._share, [self.conversation_id, self.lifetime], parts, **silent_event)
        shown = made.then(None, self.path, self.link, js=FULL_ADDRESS, api_visibility="private")
        shown.then(None, self.path, None, js=SELECT_LINK, api_visibility="private")
        self.end.click(self._end, self.conversation_id, parts, **silent_event)

    async def _share(self, conversation_id: str, lifetime: Any, request: gr.Request) -> dict[Any, Any]:
        owner = self._session_of(request).owner
        token = await guarded(in_database_thread(self._shares.create, owner, conversation_id, lifetime))
        if token is None:
            return {self.path: gr.skip()}  # an earlier link stays on the page: it is shown only once
        return {
            **await self._state(owner, conversation_id),
            self.path: f"share/{token}",
            self.link: gr.update(elem_classes=visibility_classes(True)),
        }

    async def _end(self, conversation_id: str, request: gr.Request) -> dict[Any, Any]:
        owner = self._session_of(request).owner
        ended = await guarded(in_database_thread(self._shares.revoke, owner, conversation_id))
        if ended is None:
            return {self.path: gr.skip()}
        updates = await self._state(owner, conversation_id)
        text = "The link no longer works." if ended == 1 else f"The {ended} links no longer work."
        return {**updates, self.status: gr.update(value=text if ended else "", elem_classes=visibility_classes(bool(ended)))}

    async def _open(self, request: gr.Request, event: gr.EventData) -> dict[Any, Any]:
        conversation_id = text_in(event, "id")
        return {
            **await self._state(self._session_of(request).owner, conversation_id),
            self.heading: f'<h2 id="share-title" dir="auto">Share “{html.escape(text_in(event, "title"))}”</h2>',
            self.conversation_id: conversation_id,
        }

    async def _state(self, owner: str, conversation_id: str) -> dict[Any, Any]:
        ends = await guarded(in_database_thread(self._shares.active, owner, conversation_id)) or []
        until = f" until {ends[0]:%Y-%m-%d %H:%M} UTC" if ends else ""
        text = f"Shared{until}, as it was then." if len(ends) == 1 else f"{len(ends)} links, the last one{until}."
        return {
            self.path: "",
            self.link: gr.update(value="", elem_classes=visibility_classes(False)),
            self.status: gr.update(value=text if ends else "", elem_classes=visibility_classes(bool(ends))),
            self.end: gr.update(elem_classes=visibility_classes(bool(ends))),
        }
