"""The controls for images: camera and web address, the choice between several images, and the tiles that the model sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr

from mllama_demo.ui.attachments import Attachments, CheckedFile
from mllama_demo.ui.event_scripts import ATTACHED_FILES, CLOSE_IF_FETCHED, CLOSE_PAGE_DIALOGS, OPEN_TILE_DIALOG, RESTORE_DRAFT
from mllama_demo.ui.gradio_patches.attached_files import ATTACH_FILE
from mllama_demo.ui.gradio_patches.hidden_components import visibility_classes
from mllama_demo.ui.page_update import PageSession, failures_told, guarded
from mllama_demo.ui.tile_view import NO_IMAGE

NO_CAMERA = "This browser gives no camera to a page without https. Use the paper clip, or open the demo by https."


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
        """The dialogs that the buttons beside the paper clip open. See static/attachments.js."""
        hidden = ["page-dialog", *visibility_classes(False)]
        with gr.Column(elem_id="camera-dialog", elem_classes=hidden):
            gr.HTML(f"<h2>Take a photo</h2><p>{NO_CAMERA}</p>", padding=False)
            self.camera = gr.Image(sources=["webcam"], type="filepath", label="Camera", elem_id="camera", height=320)
            gr.Button("Close", size="sm", elem_classes="close-dialog")
        with gr.Column(elem_id="address-dialog", elem_classes=hidden):
            gr.HTML("<h2>Picture from a web address</h2>", padding=False)
            self.url = gr.Textbox(label="Address of an image", placeholder="https://…", max_lines=1, elem_id="image-url")
            self.url_refusal = gr.HTML(elem_id="url-refusal", padding=False)
            with gr.Row(elem_classes="dialog-buttons"):
                gr.Button("Close", size="sm", elem_classes="close-dialog")
                self.use_url = gr.Button("Use this image", size="sm", variant="primary", elem_id="use-url")

    def lay_out_buttons(self) -> None:
        """The buttons beside the paper clip. Inside the question field, Gradio's own drawing of the field would lose them."""
        gr.HTML(source_buttons_html(), elem_id="source-buttons", padding=False)

    def lay_out_notes(self) -> None:
        self.notes = gr.HTML(elem_id="attachment-notes", padding=False)

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
        opened: Any,
        silent_event: dict[str, Any],
    ) -> None:
        """Connects the handlers.

        Args:
            preview: The event of a button in a message that shows what the model saw for an answer.
            opened: The event after which the page shows its conversation.
        """
        shown = preview(self._preview, conversation_id, self.enlarged, **silent_event)
        shown.then(None, self.enlarged, None, js=OPEN_TILE_DIALOG, api_visibility="private")
        report: tuple[Any, ...] = (None, [input, conversation_id], self.attached)
        for event in (input.change, conversation_id.change):
            event(*report, js=ATTACHED_FILES, api_visibility="private")
        question = [conversation_id, input, self.which]
        self.attached.change(self._preview_attached, question, [self.which, self.tile_view, self.notes], **silent_event)
        self.which.input(self._preview_choice, question, self.tile_view, **silent_event)

        restored = opened.then(None, input, input, js=RESTORE_DRAFT, api_visibility="private")
        attach: dict[str, Any] = {"js": ATTACH_FILE, "api_visibility": "private"}
        attached = [self.camera.input(None, [self.camera, input], input, **attach), restored]
        for event in (self.use_url.click, self.url.submit):
            fetched = event(self._fetch, self.url, [self.fetched, self.url, self.url_refusal], **silent_event)
            attached.append(fetched.then(None, [self.fetched, input], input, **attach))
            fetched.then(None, self.fetched, None, js=CLOSE_IF_FETCHED, api_visibility="private")
        for done in attached:
            done.then(*report, js=ATTACHED_FILES, api_visibility="private")
        # A photo is attached only once, and the dialog opens with the camera the next time.
        attached[0].then(None, None, self.camera, js="() => null", api_visibility="private")
        attached[0].then(None, None, None, js=CLOSE_PAGE_DIALOGS, api_visibility="private")

    async def _preview(self, conversation_id: str, event: gr.EventData, request: gr.Request) -> str:
        return await guarded(self._attachments.preview(self._session_of(request), conversation_id, number_in(event))) or ""

    async def _preview_attached(self, conversation_id: str, value: dict[str, Any], which: Any, request: gr.Request) -> list[Any]:
        found = await guarded(self._attachments.preview_question(self._session_of(request), conversation_id, value, which))
        if found is None:
            return [gr.skip(), gr.skip(), gr.skip()]
        if (choice := found.choice) is None:
            return [gr.update(elem_classes=visibility_classes(False), value="newest"), found.tiles, notes_html(found.files)]
        shown = gr.update(elem_classes=visibility_classes(True), choices=list(choice.options), label=choice.sentence)
        return [shown, found.tiles, notes_html(found.files)]

    async def _preview_choice(self, conversation_id: str, value: dict[str, Any], which: Any, request: gr.Request) -> Any:
        found = await guarded(self._attachments.preview_question(self._session_of(request), conversation_id, value, which))
        return gr.skip() if found is None else found.tiles

    async def _fetch(self, url: str) -> tuple[str | None, str, str]:
        failures: list[str] = []
        with failures_told(failures.append):
            return await self._attachments.fetch(url), "", ""
        return None, url, f'<p role="alert">{escape(failures[0])}</p>'


def source_buttons_html() -> str:
    """HTML: the buttons that open the dialogs of lay_out_sources."""
    return "".join(
        f'<button type="button" class="source-button source-{name}" aria-label="{label}" title="{label}"></button>'
        for name, label in (("camera", "Take a photo"), ("address", "Picture from a web address"))
    )


def notes_html(files: Sequence[CheckedFile]) -> str:
    """HTML: why attached files are refused, and the previews of the others."""
    return "".join(
        f'<p role="alert" data-index="{index}" data-preview="{escape(one.preview)}">{escape(one.refusal)}</p>'
        for index, one in enumerate(files)
    )


def number_in(event: gr.EventData) -> int:
    """The number of the version that a button in a message names; -1, the number of no version, when it names none."""
    data = event._data
    number = data.get("number") if isinstance(data, dict) else None
    return number if isinstance(number, int) and 0 <= number < 2**31 else -1
