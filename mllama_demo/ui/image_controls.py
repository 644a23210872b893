"""The controls for images: camera and web address, the choice between several images, and the tiles that the model sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from mllama_demo.ui.attachments import Attachments
from mllama_demo.ui.event_scripts import ATTACHED_FILES, OPEN_TILE_DIALOG
from mllama_demo.ui.gradio_patches.attached_files import ATTACH_FILE
from mllama_demo.ui.gradio_patches.hidden_components import visibility_classes
from mllama_demo.ui.page_update import PageSession, guarded
from mllama_demo.ui.tile_view import NO_IMAGE


class ImageControls:
    """The components, in three places of the page, and their handlers. session_of: returns the session of a request."""

    def __init__(self, attachments: Attachments, session_of: Callable[[gr.Request], PageSession]) -> None:
        self._attachments, self._session_of = attachments, session_of

    def lay_out_state(self) -> None:
        """Values that pass from one event to the next."""
        self.attached = gr.Textbox("", visible=False)
        self.enlarged = gr.Textbox(visible=False)
        self.fetched = gr.File(visible=False)

    def lay_out_tiles(self) -> None:
        with gr.Accordion("What the model sees", open=False, elem_id="tile-panel"):
            self.tile_view = gr.HTML(NO_IMAGE, elem_id="tile-view", padding=False)

    def lay_out_sources(self) -> None:
        with gr.Accordion("Camera or web address", open=False, elem_id="more-images"):
            self.url = gr.Textbox(label="Address of an image", placeholder="https://…", max_lines=1, elem_id="image-url")
            self.use_url = gr.Button("Use this image", size="sm", elem_id="use-url")
            self.camera = gr.Image(sources=["webcam"], type="filepath", label="Camera", elem_id="camera", height=220)

    def lay_out_choice(self) -> None:
        self.which = gr.Radio(
            [("The new one", "newest"), ("The first one", "first"), ("Side by side", "together")],
            value="newest", label="The model looks at one image at a time.", elem_id="which-image",
            elem_classes=visibility_classes(False),
        )  # fmt: skip

    def wire(
        self,
        input: gr.MultimodalTextbox,
        conversation_id: gr.Textbox,
        preview: Callable[..., Any],
        silent_event: dict[str, Any],
    ) -> None:
        """Connects the handlers. preview: the event of a button in a message that shows what the model saw for an answer."""
        shown = preview(self._preview, conversation_id, self.enlarged, **silent_event)
        shown.then(None, self.enlarged, None, js=OPEN_TILE_DIALOG, api_visibility="private")
        report: tuple[Any, ...] = (None, [input, conversation_id], self.attached)
        for event in (input.change, conversation_id.change):
            event(*report, js=ATTACHED_FILES, api_visibility="private")
        question = [conversation_id, input, self.which]
        self.attached.change(self._preview_attached, question, [self.which, self.tile_view], **silent_event)
        self.which.input(self._preview_choice, question, self.tile_view, **silent_event)

        attach: dict[str, Any] = {"js": ATTACH_FILE, "api_visibility": "private"}
        attached = [self.camera.input(None, [self.camera, input], input, **attach)]
        for event in (self.use_url.click, self.url.submit):
            fetched = event(self._fetch, self.url, [self.fetched, self.url], **silent_event)
            attached.append(fetched.then(None, [self.fetched, input], input, **attach))
        for done in attached:
            done.then(*report, js=ATTACHED_FILES, api_visibility="private")

    async def _preview(self, conversation_id: str, event: gr.EventData, request: gr.Request) -> str:
        return await guarded(self._attachments.preview(self._session_of(request), conversation_id, number_in(event))) or ""

    async def _preview_attached(self, conversation_id: str, value: dict[str, Any], which: Any, request: gr.Request) -> list[Any]:
        found = await guarded(self._attachments.preview_question(self._session_of(request), conversation_id, value, which))
        if found is None:
            return [gr.skip(), gr.skip()]
        choice, tiles = found
        if choice is None:
            return [gr.update(elem_classes=visibility_classes(False), value="newest"), tiles]
        shown = gr.update(elem_classes=visibility_classes(True), choices=list(choice.options), label=choice.sentence)
        return [shown, tiles]

    async def _preview_choice(self, conversation_id: str, value: dict[str, Any], which: Any, request: gr.Request) -> Any:
        found = await guarded(self._attachments.preview_question(self._session_of(request), conversation_id, value, which))
        return gr.skip() if found is None else found[1]

    async def _fetch(self, url: str) -> tuple[str | None, str]:
        path = await guarded(self._attachments.fetch(url))
        return path, "" if path else url


def number_in(event: gr.EventData) -> int:
    """The number of the version that a button in a message names; -1, the number of no version, when it names none."""
    data = event._data
    number = data.get("number") if isinstance(data, dict) else None
    return number if isinstance(number, int) and 0 <= number < 2**31 else -1
