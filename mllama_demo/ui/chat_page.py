"""The page: which components there are, where they stand, and which handler each event calls."""

from __future__ import annotations

import atexit
import inspect
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import gradio as gr
from fastapi import Depends, FastAPI
from gradio.components.chatbot import ExampleMessage

from mllama_demo.chat.export import MAX_FILE_BYTES
from mllama_demo.config.branding import Brand
from mllama_demo.config.settings import Settings
from mllama_demo.images.examples import EXAMPLES, EXAMPLES_FOLDER, ExampleQuestion
from mllama_demo.storage.stores import Stores
from mllama_demo.ui.chat_service import ChatService, Sampling
from mllama_demo.ui.event_scripts import ARRIVED, ATTACH, ATTACHED, BEAT, BEHIND, CLOSEUP, REMEMBER_IN_ADDRESS
from mllama_demo.ui.feedback_controls import FeedbackControls
from mllama_demo.ui.help import help_html, links_html
from mllama_demo.ui.kiosk import OWNER_PREFIX, Kiosk
from mllama_demo.ui.page_update import PageUpdate, PageUpdates, classes, guarded, guarded_stream
from mllama_demo.ui.sampling_controls import SamplingControls, sampling_from
from mllama_demo.ui.share_controls import ShareControls
from mllama_demo.ui.sidebar import Sidebar
from mllama_demo.ui.theme import CSS, HEAD, OPEN_SIDEBARS_ON_WIDE_SCREENS, PAGE_SCRIPT, make_theme
from mllama_demo.ui.tile_view import NOTHING
from mllama_demo.web.auth.login import user_of
from mllama_demo.web.requests import require_same_origin

# What a handler yields: components and their new values.
Updates = AsyncGenerator[dict[Any, Any], None]
STATUS_SECONDS = 2.0
UPLOAD_CLEANUP_SECONDS = (3600, 24 * 3600)


def mount_ui(app: FastAPI, settings: Settings, room: ChatService, stores: Stores, brand: Brand) -> None:
    """Builds the page and mounts it at the root of `app`."""
    atexit.register(room.close)
    room.traces.erase_all(OWNER_PREFIX)
    page = ChatPage(settings, room, stores, brand)

    @app.post("/left/{session}", status_code=204, include_in_schema=False, dependencies=[Depends(require_same_origin)])
    async def left(session: str) -> None:
        await page.left(session)

    # Gradio 6.17, which goes with the Neuron SDK (requirements-neuron.txt), has no run history to switch off.
    newer: dict[str, Any] = {"run_history": False} if "run_history" in inspect.signature(gr.mount_gradio_app).parameters else {}
    gr.mount_gradio_app(
        app,
        page.build(),
        path="/",
        theme=make_theme(),
        css=CSS + brand.gradio_css(),
        head=HEAD,
        # The gate in front has asked already; Gradio hands the name to the events, and has nobody in where there is none.
        auth_dependency=None if settings.users is None else user_of,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        show_error=True,
        allowed_paths=[str(room.previews), str(EXAMPLES_FOLDER)],
        max_file_size=max(settings.max_image_bytes, MAX_FILE_BYTES),
        **newer,
    )


class ChatPage:
    """The chat's components and wiring. build() makes the Blocks once."""

    def __init__(self, settings: Settings, room: ChatService, stores: Stores, brand: Brand) -> None:
        self._settings = settings
        self._room = room
        self._kiosk = Kiosk(settings)
        self._brand = brand
        share = ShareControls(stores.shares, self._kiosk.visit)
        self._drawer = Sidebar(room, self._updates, share, self._kiosk.visit, people=settings.users is not None)
        self.knobs = SamplingControls(settings, room)
        self._thumbs = FeedbackControls(stores.conversations, stores.feedback, lambda: room.info.model, self._kiosk.visit)

    def build(self) -> gr.Blocks:
        with gr.Blocks(
            title=self._settings.title, fill_height=True, analytics_enabled=False, delete_cache=UPLOAD_CLEANUP_SECONDS
        ) as demo:
            self._lay_out()
            self._wire(demo)
        demo.queue(default_concurrency_limit=None, api_open=False)
        return demo

    # --- layout ---------------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        settings = self._settings
        self.conversation_id = gr.Textbox(visible=False)
        self.attached = gr.Textbox("", visible=False)
        self.beat = gr.Textbox(visible=False)
        self.behind = gr.Number(0, visible=False)
        self.closeup = gr.Textbox(visible=False)
        self.fetched = gr.File(visible=False)
        self.arrived = gr.Textbox("", visible=False)
        self.anew = gr.Button("Begin anew", visible="hidden", elem_id="kiosk-anew")
        self.clock = gr.Timer(STATUS_SECONDS)
        with gr.Sidebar(open=False, width="17.5rem"):
            self._drawer.lay_out()
        with gr.Sidebar(open=False, width="19rem", position="right", elem_id="settings"):
            gr.Markdown("### Settings", elem_id="settings-title")
            with gr.Accordion("What the model sees", open=False, elem_id="sight-panel"):
                self.sight = gr.HTML(NOTHING, elem_id="sight", padding=False)
            gr.Markdown("### Sampling")
            self.knobs.lay_out()
            with gr.Accordion("Camera or web address", open=False, elem_id="more-images"):
                self.url = gr.Textbox(label="Address of an image", placeholder="https://…", max_lines=1, elem_id="image-url")
                self.use_url = gr.Button("Use this image", size="sm", elem_id="use-url")
                self.camera = gr.Image(sources=["webcam"], type="filepath", label="Camera", elem_id="camera", height=220)
        with gr.Row(elem_id="topbar"):
            if self._brand.logo is not None:
                gr.HTML(self._brand.logo_html(), elem_id="logo", padding=False)
            gr.Markdown(f"# {settings.title}", elem_id="masthead")
            gr.HTML(links_html(), elem_id="links", padding=False)
        self.status = gr.HTML(self._room.status(), elem_id="status", padding=False)
        with gr.Column(elem_id="chat-history", scale=1):
            # They take the height of what they show; the room around them scrolls (chat.js).
            size: dict[str, Any] = {"height": None, "min_height": 0, "autoscroll": False}
            looks: dict[str, Any] = {"show_label": False, "container": False, "layout": "bubble", "latex_delimiters": []}
            self.history = gr.Chatbot(
                elem_id="said",
                label="Conversation",
                editable="user",
                buttons=["copy"],
                examples=[_example(question) for question in EXAMPLES],
                allow_tags=False,
                placeholder=_welcome(settings),
                **size,
                **looks,
            )
            # The answer under way, by itself: Gradio draws a whole chatbot anew at each update.
            self.live = gr.Chatbot(elem_id="live", label="Answer", buttons=[], allow_tags=False, **size, **looks)
        self._thumbs.lay_out()
        self.which = gr.Radio(
            [("The new one", "newest"), ("The first one", "first"), ("Side by side", "together")],
            value="newest", label="The model looks at one image at a time.", elem_id="which-image", elem_classes=classes(False),
        )  # fmt: skip
        with gr.Row(equal_height=True, elem_id="ask"):
            self.input = gr.MultimodalTextbox(
                elem_id="chat-input",
                label="Your question",
                show_label=False,
                placeholder="Ask about a picture",
                file_types=["image"],
                sources=["upload"],
                # Of two at once the visitor chooses; a single-file box would drop the second one silently.
                file_count="multiple",
                max_plain_text_length=100_000,
                autofocus=True,
                scale=8,
            )
            self.stop = gr.Button("Stop", variant="stop", elem_id="stop", elem_classes=classes(False), scale=1, min_width=90)
        if self._brand.footer:
            gr.HTML(self._brand.footer_html(), elem_id="brand-footer", padding=False)
        gr.HTML(help_html(), elem_id="help", padding=False)
        self.script = gr.HTML("", js_on_load=PAGE_SCRIPT, visible="hidden", elem_id="page-script")

        # Gradio tells every component with a status its own, all of them at each update, and lays "Error" over one that a lost
        # connection left without an answer: only one that is not there has a status.
        self._quiet: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": self.beat, "api_visibility": "private"}
        self._page = [
            self.history,
            self.live,
            self.conversation_id,
            self.input,
            self.stop,
            self.status,
            self.sight,
            *self._drawer.outputs,
        ]

    # --- wiring ---------------------------------------------------------------------------------------------------------

    def _wire(self, demo: gr.Blocks) -> None:
        knobs = self.knobs.values
        quiet = self._quiet
        talk: dict[str, Any] = {**quiet, "outputs": self._page}

        demo.load(None, js=OPEN_SIDEBARS_ON_WIDE_SCREENS, api_visibility="private")
        self._go_on(demo.load(self._opened, None, **talk))
        demo.load(self._arrived, None, self.arrived, queue=False, **quiet)
        self.arrived.change(None, self.arrived, None, js=ARRIVED, api_visibility="private")
        self.anew.click(self._begin_anew, None, **talk)
        self.clock.tick(self._ticked, self.behind, [self.status, self.beat], js=BEHIND, queue=False, **quiet)
        self.beat.change(None, None, None, js=BEAT, api_visibility="private")
        self.knobs.wire(demo, quiet)
        self.conversation_id.change(None, self.conversation_id, None, js=REMEMBER_IN_ADDRESS, api_visibility="private")

        self._go_on(self.input.submit(self._ask, [self.conversation_id, self.input, self.which, *knobs], **talk))
        self._go_on(self.history.example_select(self._ask_example, [self.conversation_id, *knobs], **talk))
        self._go_on(self.history.retry(self._retry, [self.conversation_id, *knobs], **talk))
        self._go_on(self.history.edit(self._edit, [self.conversation_id, self.input, *knobs], **talk))
        self.history.undo(self._undo, [self.conversation_id, self.input], **talk)
        self.stop.click(self._stop, self.conversation_id, None, queue=False, **quiet)

        self._drawer.wire(self.conversation_id, self._go_on, quiet, talk)
        self._thumbs.wire(self.history, self.conversation_id, quiet)

        self.script.click(self._walk, self.conversation_id, **talk)
        looked = self.script.expand(self._look, self.conversation_id, self.closeup, **quiet)
        looked.then(None, self.closeup, None, js=CLOSEUP, api_visibility="private")
        for event in (self.input.change, self.conversation_id.change):
            event(None, [self.input, self.conversation_id], self.attached, js=ATTACHED, api_visibility="private")
        choosing = [self.conversation_id, self.input, self.which]
        self.attached.change(self._attached, choosing, [self.which, self.sight], **quiet)
        self.which.input(self._chosen, choosing, self.sight, **quiet)

        taken = [self.camera.input(None, [self.camera, self.input], self.input, js=ATTACH, api_visibility="private")]
        for event in (self.use_url.click, self.url.submit):
            fetched = event(self._fetch, self.url, [self.fetched, self.url], **quiet)
            taken.append(fetched.then(None, [self.fetched, self.input], self.input, js=ATTACH, api_visibility="private"))
        for attached in taken:  # which is no change for the input
            attached.then(None, [self.input, self.conversation_id], self.attached, js=ATTACHED, api_visibility="private")

    def _updates(self, view: PageUpdate | None) -> dict[Any, Any]:
        """The components that a PageUpdate changes; the status line always."""
        view = view or PageUpdate()
        updates: dict[Any, Any] = {self.status: view.status or self._room.status()}
        if view.history is not None:
            known = view.thumbs is not None
            updates[self.history] = gr.update(value=view.history, feedback_value=view.thumbs) if known else view.history
        if view.history is not None or view.live is not None:
            updates[self.live] = view.live or []
        if view.conversation_id is not None:
            updates[self.conversation_id] = view.conversation_id
        if view.input is not None:
            updates[self.input] = view.input
        if view.answering is not None:
            updates[self.stop] = gr.update(elem_classes=classes(view.answering))
        if view.sight is not None:
            updates[self.sight] = view.sight
        return {**updates, **self._drawer.updates(view)}

    async def _begin(self, views: PageUpdates) -> Updates:
        """The updates of a stream of views until its answer is under way; _follow and _settle go on from there.

        For Gradio makes every output of an event anew that an update leaves as it is, a dozen times a second: an answer is
        followed by an event that has no other output.
        """
        async with aclosing(guarded_stream(views)) as stream:
            async for view in stream:
                yield self._updates(view)
                if view.begun:
                    return

    async def _follow(self, conversation_id: str, request: gr.Request) -> AsyncGenerator[Any, None]:
        async for view in guarded_stream(self._room.follow(self._kiosk.visit(request), conversation_id)):
            yield gr.skip() if view.live is None else view.live

    async def _settle(self, conversation_id: str, request: gr.Request) -> dict[Any, Any]:
        return self._updates(await guarded(self._room.settle(self._kiosk.visit(request), conversation_id)))

    def _go_on(self, event: Any) -> None:
        """After an event that may have begun an answer, or found one under way.

        "multiple": a page that goes from one such conversation to another follows the second before it has let go of the first.
        """
        again: dict[str, Any] = {**self._quiet, "trigger_mode": "multiple"}
        followed = event.then(self._follow, self.conversation_id, self.live, **again)
        followed.then(self._settle, self.conversation_id, self._page, **again)

    def _ticked(self, behind: float | None, request: gr.Request) -> tuple[str, str]:
        self._room.pages.pace.heard(str(request.session_hash), behind or 0.0)
        return self._room.status(), f"{time.monotonic()}"

    async def _opened(self, request: gr.Request) -> dict[Any, Any]:
        named = request.query_params.get("c") or ""
        return self._updates(await guarded(self._room.open(self._kiosk.visit(request), named)))

    async def _stop(self, conversation_id: str, request: gr.Request) -> None:
        await guarded(self._room.stop(self._kiosk.visit(request), conversation_id))

    def _arrived(self, request: gr.Request) -> str:
        return f"{request.session_hash} {self._kiosk.idle_seconds(request)}"

    async def left(self, session: str) -> None:
        """The page was closed, says the page itself.

        Not Gradio's unload event: for that every page holds a connection for as long as it is open. A browser has six to a host,
        so three pages with an answer under way had all of them, and not even Stop could be asked for.
        """
        kiosk = self._kiosk.page(session)
        try:
            if kiosk is not None:
                await self._room.forget(kiosk)
        finally:
            self._kiosk.left(session)
            self._room.leave(session)

    async def _undo(self, conversation_id: str, value: dict[str, Any], request: gr.Request) -> dict[Any, Any]:
        return self._updates(await guarded(self._room.undo(self._kiosk.visit(request), conversation_id, value)))

    async def _walk(self, conversation_id: str, event: gr.EventData, request: gr.Request) -> dict[Any, Any]:
        return self._updates(await guarded(self._room.walk(self._kiosk.visit(request), conversation_id, number_in(event))))

    async def _look(self, conversation_id: str, event: gr.EventData, request: gr.Request) -> str:
        return await guarded(self._room.images.look(self._kiosk.visit(request), conversation_id, number_in(event))) or ""

    async def _attached(self, conversation_id: str, value: dict[str, Any], which: Any, request: gr.Request) -> list[Any]:
        known = await guarded(self._room.images.attached(self._kiosk.visit(request), conversation_id, value, which))
        if known is None:
            return [gr.skip(), gr.skip()]
        choice, sight = known
        if choice is None:
            return [gr.update(elem_classes=classes(False), value="newest"), sight]
        return [gr.update(elem_classes=classes(True), choices=list(choice.options), label=choice.sentence), sight]

    async def _chosen(self, conversation_id: str, value: dict[str, Any], which: Any, request: gr.Request) -> Any:
        known = await guarded(self._room.images.attached(self._kiosk.visit(request), conversation_id, value, which))
        return gr.skip() if known is None else known[1]

    async def _ask(
        self, request: gr.Request, conversation_id: str, value: dict[str, Any], which: Any, *knobs: Any, typed: bool = True
    ) -> Updates:
        sampling = self._sampling(request, *knobs)
        views = self._kiosk.counted(request, self._room.ask, conversation_id, value, sampling, which, typed)
        async for updates in self._begin(views):
            yield updates

    async def _ask_example(self, request: gr.Request, event: gr.SelectData, conversation_id: str, *knobs: Any) -> Updates:
        example = EXAMPLES[event.index]
        value = {"text": example.text, "files": [str(EXAMPLES_FOLDER / example.image)] if example.image else []}
        async for updates in self._ask(request, conversation_id, value, "newest", *knobs, typed=False):
            yield updates

    async def _retry(self, request: gr.Request, conversation_id: str, *knobs: Any) -> Updates:
        views = self._kiosk.counted(request, self._room.retry, conversation_id, self._sampling(request, *knobs))
        async for updates in self._begin(views):
            yield updates

    async def _edit(
        self, request: gr.Request, event: gr.EditData, conversation_id: str, typed: dict[str, Any], *knobs: Any
    ) -> Updates:
        index = event.index[0] if isinstance(event.index, (tuple, list)) else event.index
        sampling = self._sampling(request, *knobs)
        views = self._kiosk.counted(request, self._room.edit, conversation_id, index, str(event.value), sampling, typed)
        async for updates in self._begin(views):
            yield updates

    def _sampling(self, request: gr.Request, *knobs: Any) -> Sampling:
        """The knobs' values; a kiosk has none."""
        return lambda: self._settings.sampling if self._kiosk.is_one(request) else sampling_from(*knobs)

    async def _begin_anew(self, request: gr.Request) -> dict[Any, Any]:
        """The first screen of a kiosk, with nothing left of the visitor before."""
        if not self._kiosk.is_one(request):
            return self._updates(None)
        self._kiosk.begin_anew(request)
        return self._updates(await guarded(self._room.forget(self._kiosk.visit(request))))

    async def _fetch(self, url: str) -> tuple[str | None, str]:
        path = await guarded(self._room.images.fetch(url))
        return path, "" if path else url


def number_in(event: gr.EventData) -> int:
    """The version that a button in a message names; -1, which there is none of, when it names none."""
    data = event._data
    number = data.get("number") if isinstance(data, dict) else None
    return number if isinstance(number, int) and 0 <= number < 2**31 else -1


def _example(question: ExampleQuestion) -> ExampleMessage:
    if question.image is None:
        return {"text": question.text, "display_text": question.text}
    path = str(EXAMPLES_FOLDER / question.image)
    return {"text": question.text, "display_text": question.text, "files": [path], "icon": path}


def _welcome(settings: Settings) -> str:
    """Markdown on the first screen: what this is, and how to begin."""
    known = "Follow up, and see what temperature, top-p and top-k do to the answer."
    if settings.embedded:
        known = (
            "A tiny stand-in for Meta's model answers here: it knows simple drawings – animals, fruit and other emoji-like "
            "things, shapes, colours, short words – but neither photographs nor the world."
        )
    return f"## Ask about a picture\n{known}\n\nAdd one with the paper clip, paste or drop it – or try one of these:"
