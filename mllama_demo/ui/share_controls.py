"""The part of the drawer that makes links to a conversation and ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import gradio as gr

from mllama_demo.storage.shares import DEFAULT_LIFETIME, LIFETIMES, Shares
from mllama_demo.ui.page_update import PageSession, classes, guarded

# The server does not know under which address a browser reaches it.
WHOLE_ADDRESS = """(path) => path && new URL(path, new URL(".", window.location.href)).href"""
SELECT = """(path) => path && setTimeout(() => document.querySelector("#share-link :is(input, textarea)")?.select(), 100)"""


class ShareControls:
    """Its components and its wiring. visit: who sends a request."""

    def __init__(self, shares: Shares, visit: Callable[[gr.Request], PageSession]) -> None:
        self._shares, self._visit = shares, visit

    def lay_out(self) -> None:
        self.path = gr.Textbox(visible=False)
        with gr.Row(elem_id="share-row"):
            self.lifetime = gr.Dropdown(
                list(LIFETIMES), value=DEFAULT_LIFETIME, label="Share for", elem_id="share-for", filterable=False, min_width=90
            )
            self.share = gr.Button("Share", size="sm", elem_id="share", min_width=70, scale=0)
        self.link = gr.Textbox(
            label="Link, shown this once",
            elem_id="share-link",
            interactive=False,
            elem_classes=classes(False),
            max_lines=1,
            buttons=["copy"],
        )
        self.said = gr.Markdown(elem_classes=classes(False), elem_id="share-said")
        self.end = gr.Button("Stop sharing", size="sm", elem_id="stop-sharing", elem_classes=classes(False))

    def wire(self, conversation_id: gr.Textbox, quiet: dict[str, Any]) -> None:
        parts = [self.path, self.link, self.said, self.end]
        made = self.share.click(self._share, [conversation_id, self.lifetime], parts, **quiet)
        shown = made.then(None, self.path, self.link, js=WHOLE_ADDRESS, api_visibility="private")
        shown.then(None, self.path, None, js=SELECT, api_visibility="private")
        self.end.click(self._end, conversation_id, parts, **quiet)
        conversation_id.change(self._look, conversation_id, parts, **quiet)

    async def _share(self, conversation_id: str, lifetime: Any, request: gr.Request) -> dict[Any, Any]:
        visit = self._visit(request)
        token = await guarded(asyncio.to_thread(self._shares.create, visit.owner, conversation_id, lifetime))
        if token is None:
            return {self.path: gr.skip()}  # a link that is there stays: it is shown only once
        return {
            **await self._state(visit.owner, conversation_id),
            self.path: f"share/{token}",
            self.link: gr.update(elem_classes=classes(True)),
        }

    async def _end(self, conversation_id: str, request: gr.Request) -> dict[Any, Any]:
        owner = self._visit(request).owner
        ended = await guarded(asyncio.to_thread(self._shares.revoke, owner, conversation_id))
        if ended is None:
            return {self.path: gr.skip()}
        updates = await self._state(owner, conversation_id)
        words = "The link no longer works." if ended == 1 else f"The {ended} links no longer work."
        return {**updates, self.said: gr.update(value=words if ended else "", elem_classes=classes(bool(ended)))}

    async def _look(self, conversation_id: str, request: gr.Request) -> dict[Any, Any]:
        return await self._state(self._visit(request).owner, conversation_id)

    async def _state(self, owner: str, conversation_id: str) -> dict[Any, Any]:
        ends = await guarded(asyncio.to_thread(self._shares.active, owner, conversation_id)) or []
        until = f" until {ends[0]:%Y-%m-%d %H:%M} UTC" if ends else ""
        words = f"Shared{until}, as it was then." if len(ends) == 1 else f"{len(ends)} links, the last one{until}."
        return {
            self.path: "",
            self.link: gr.update(value="", elem_classes=classes(False)),
            self.said: gr.update(value=words if ends else "", elem_classes=classes(bool(ends))),
            self.end: gr.update(elem_classes=classes(bool(ends))),
        }
