"""The chat page: its Gradio components, the layout, and the handler of each event. ChatService has the logic."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import gradio as gr
from gradio.components.chatbot import ExampleMessage

from mllama_demo.config.branding import Brand
from mllama_demo.config.settings import Settings
from mllama_demo.images.examples import EXAMPLES, EXAMPLES_FOLDER, ExampleQuestion
from mllama_demo.storage.stores import Stores
from mllama_demo.ui.chat_service import ChatService
from mllama_demo.ui.event_scripts import REFUSE_EDIT, REMEMBER_IN_ADDRESS, START_SESSION
from mllama_demo.ui.feedback_controls import FeedbackControls
from mllama_demo.ui.gradio_patches.error_overlay import show_notice, silent_event
from mllama_demo.ui.gradio_patches.generator_end import UNCHANGED
from mllama_demo.ui.gradio_patches.hidden_components import visibility_classes
from mllama_demo.ui.gradio_patches.idle_queue import poll_less_often
from mllama_demo.ui.gradio_patches.live_answer import live_answer
from mllama_demo.ui.gradio_patches.message_html import UNCHANGED_HTML
from mllama_demo.ui.gradio_patches.repeated_events import REPEATABLE
from mllama_demo.ui.gradio_patches.sidebars import OPEN_ON_WIDE_SCREENS
from mllama_demo.ui.gradio_patches.unread_messages import forget_unread_messages
from mllama_demo.ui.help import help_html, links_html
from mllama_demo.ui.image_controls import ImageControls, number_in
from mllama_demo.ui.kiosk import Kiosk
from mllama_demo.ui.opening import SHOW_PAGE
from mllama_demo.ui.page_update import PageSession, PageUpdate, failures_as_notices, failures_told, guarded, page_session
from mllama_demo.ui.question_edit import QuestionEdit
from mllama_demo.ui.questions import Question
from mllama_demo.ui.sampling_controls import SamplingControls, sampling_from
from mllama_demo.ui.share_controls import ShareControls
from mllama_demo.ui.sidebar import Sidebar
from mllama_demo.ui.theme import PAGE_SCRIPT
from mllama_demo.web.guide.routes import PATH as GUIDE_PATH

# The type of a handler that yields several times: each dict has the new value of each component that changes.
Updates = AsyncGenerator[dict[Any, Any], None]
NOT_ASKED = "The question could not be asked. Please try again."
LONG_TITLE = 28  # characters that fit into one line beside the links
UPLOAD_CLEANUP_SECONDS = (600, 2 * 3600)  # Gradio looks this often for uploaded files, and deletes those of this age


class ChatPage:
    """The components and handlers of the page. Call build() once; all visitors share its result."""

    def __init__(self, settings: Settings, service: ChatService, stores: Stores, brand: Brand) -> None:
        self._settings = settings
        self._service = service
        self._brand = brand
        self._kiosk = Kiosk(settings)
        session_of = self._kiosk.session_of
        self._share = ShareControls(stores.shares, session_of)
        self._sidebar = Sidebar(service, self._updates, self._share, session_of, admins=frozenset(settings.admins or ()))
        self.sampling_controls = SamplingControls(settings, lambda: service.info)
        self._image_controls = ImageControls(service.attachments, session_of)
        self._feedback_controls = FeedbackControls(stores.conversations, stores.feedback, lambda: service.info.model, session_of)

    def build(self) -> gr.Blocks:
        with gr.Blocks(
            title=self._settings.title, fill_height=True, analytics_enabled=False, delete_cache=UPLOAD_CLEANUP_SECONDS
        ) as demo:
            self._lay_out()
            self._wire(demo)
        demo.queue(default_concurrency_limit=None, api_open=False)
        poll_less_often(demo)
        forget_unread_messages(demo)
        return demo

    # --- layout ---------------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        settings = self._settings
        self.conversation_id = gr.Textbox(visible=False)
        self.no_progress = gr.Textbox(visible=False)
        self.session_info = gr.Textbox("", visible=False)
        self.edit_refusal = gr.Textbox("", visible=False)
        self.reset_kiosk = gr.Button("Reset", visible="hidden", elem_id="kiosk-reset")
        self._image_controls.lay_out_state()
        with gr.Sidebar(open=False, width="17.5rem"):
            self._sidebar.lay_out()
        with gr.Sidebar(open=False, width="19rem", position="right", elem_id="settings"):
            gr.Markdown("### Settings", elem_id="settings-title")
            self._image_controls.lay_out_tiles()
            gr.Markdown("### Sampling")
            self.sampling_controls.lay_out()
        with gr.Row(elem_id="topbar"):
            if self._brand.logo is not None:
                gr.HTML(self._brand.logo_html(), elem_id="logo", padding=False)
            long = "long-title" if len(settings.title) > LONG_TITLE else ""
            gr.Markdown(f"# {settings.title}", elem_id="page-title", elem_classes=long)
            gr.HTML(links_html(), elem_id="links", padding=False)
        self.status = gr.HTML(self._service.status(), elem_id="status", padding=False)
        with gr.Column(elem_id="chat-history", scale=1):
            # The column scrolls (autoscroll.js); each chatbot is as high as its messages.
            options: dict[str, Any] = {
                "height": None, "min_height": 0, "autoscroll": False, "show_label": False, "container": False,
                "layout": "bubble", **UNCHANGED_HTML,
            }  # fmt: skip
            self.history = gr.Chatbot(
                elem_id="messages",
                label="Conversation",
                examples=[_example_message(question) for question in EXAMPLES],
                placeholder=_welcome(settings),
                **options,
            )
            self.live = live_answer(**options)
        self._feedback_controls.lay_out()
        self._image_controls.lay_out_choice()
        self._image_controls.lay_out_notes()
        with gr.Row(equal_height=True, elem_id="question-row"):
            self._image_controls.lay_out_buttons()
            self.input = gr.MultimodalTextbox(
                elem_id="chat-input",
                label="Your question",
                show_label=False,
                placeholder="Ask about a picture",
                sources=["upload"],
                # The visitor chooses one of several files. With "single", Gradio drops the other files without a notice.
                file_count="multiple",
                max_plain_text_length=100_000,
                autofocus=True,
                scale=8,
            )
            self.stop = gr.Button(
                "Stop", variant="stop", elem_id="stop", elem_classes=visibility_classes(False), scale=1, min_width=90
            )
        if self._brand.footer:
            gr.HTML(self._brand.footer_html(), elem_id="brand-footer", padding=False)
        self._share.lay_out()
        self._image_controls.lay_out_sources()
        gr.HTML(help_html(), elem_id="help", padding=False)
        self.script = gr.HTML("", js_on_load=PAGE_SCRIPT, visible="hidden", elem_id="page-script")

    # --- events ---------------------------------------------------------------------------------------------------------

    def _wire(self, demo: gr.Blocks) -> None:
        self._silent_event = silent = silent_event(invisible=self.no_progress)
        outputs = [self.history, self.live, self.conversation_id, self.input, self.stop, self.status]
        outputs += [self._image_controls.tile_view, *self._sidebar.outputs]
        self._page_event = page_event = {**silent, "outputs": outputs}
        sampling = self.sampling_controls.values

        demo.load(None, js=OPEN_ON_WIDE_SCREENS, api_visibility="private")
        opened = demo.load(self._open, None, **page_event)
        opened.then(None, None, None, js=SHOW_PAGE, api_visibility="private")
        self._then_stream_answer(opened)
        demo.load(self._start_session, None, self.session_info, queue=False, **silent)
        self.session_info.change(None, self.session_info, None, js=START_SESSION, api_visibility="private")
        self.reset_kiosk.click(self._reset_kiosk, None, **page_event)
        self.conversation_id.change(None, self.conversation_id, None, js=REMEMBER_IN_ADDRESS, api_visibility="private")

        question = [self.conversation_id, self.input, self._image_controls.which, *sampling]
        self._then_stream_answer(self.input.submit(self._ask, question, **page_event))
        for event, handler in ((self.history.example_select, self._ask_example), (self.history.retry, self._retry)):
            self._then_stream_answer(event(handler, [self.conversation_id, *sampling], **page_event))
        edited = [self.conversation_id, self.input, *sampling]
        edit_event = {**page_event, "outputs": [*outputs, self.edit_refusal]}
        self._then_stream_answer(self.script.edit(self._edit, edited, **edit_event))
        self.edit_refusal.change(None, self.edit_refusal, None, js=REFUSE_EDIT, api_visibility="private")
        self.history.undo(self._undo, [self.conversation_id, self.input], **page_event)
        self.stop.click(self._stop, self.conversation_id, None, queue=False, **silent)
        # The buttons inside messages are plain HTML. chat.js turns a click on one into an event of the component `script`.
        self.script.click(self._select_version, self.conversation_id, **page_event)
        for event, handler in ((self.script.retry, self._retry), (self.script.play, self._continue)):
            self._then_stream_answer(event(handler, [self.conversation_id, *sampling], **page_event))

        self.sampling_controls.wire(demo, silent)
        self.script.release(self._use_values, self.conversation_id, sampling, **silent)
        self._sidebar.wire(self.script, self._then_stream_answer, silent, page_event)
        self._feedback_controls.wire(self.history, self.conversation_id, silent)
        self._image_controls.wire(self.input, self.conversation_id, self.script.expand, opened, silent)

    def _then_stream_answer(self, event: Any) -> None:
        """Streams the answer that is being written after the event, if there is one. Then shows the stored conversation."""
        followed = event.then(self._follow, self.conversation_id, self.live, **self._silent_event, **REPEATABLE)
        followed.then(self._refresh, self.conversation_id, **self._page_event, **REPEATABLE)

    def _updates(self, update: PageUpdate | None) -> dict[Any, Any]:
        """Converts a PageUpdate into the new values of components. The status line always has one."""
        update = self._service.pages.current(update or PageUpdate())
        updates: dict[Any, Any] = {self.status: update.status or self._service.status()}
        if update.history is not None:
            rated = update.ratings is not None
            updates[self.history] = gr.update(value=update.history, feedback_value=update.ratings) if rated else update.history
        if update.history is not None or update.live is not None:
            updates[self.live] = update.live or []
        if update.conversation_id is not None:
            updates[self.conversation_id] = update.conversation_id
        if update.input is not None:
            updates[self.input] = update.input
        if update.answering is not None:
            updates[self.stop] = gr.update(elem_classes=visibility_classes(update.answering))
        if update.tile_view is not None:
            updates[self._image_controls.tile_view] = update.tile_view
        return {**updates, **self._sidebar.updates(update)}

    async def _guarded_updates(self, work: Awaitable[PageUpdate]) -> dict[Any, Any]:
        """Awaits the work and converts its PageUpdate. A failure of the work is shown as a notice."""
        return self._updates(await guarded(work))

    # --- handlers: questions and answers --------------------------------------------------------------------------------

    async def _answer(
        self,
        request: gr.Request,
        question_for: Callable[[PageSession], Awaitable[Question]],
        *sampling: Any,
        tell: Callable[[str], None] = show_notice,
    ) -> Updates:
        """Asks a question. Ends when the answer has begun. Then _follow streams the answer, and _refresh shows the end.

        Args:
            question_for: Makes the question of a session.
            sampling: The values of the sampling controls. A kiosk ignores them.
            tell: Called with a sentence for the visitor when the question is refused.
        """
        session = self._kiosk.session_of(request)
        with failures_told(tell), self._kiosk.counted(request) as not_counted:
            question = await question_for(session)
            params = lambda: self._settings.sampling if self._kiosk.is_kiosk(request) else sampling_from(*sampling)  # noqa: E731
            async with aclosing(self._service.answer(session, question, params)) as updates:
                async for update in updates:
                    yield self._updates(update)
                    if update.failed:
                        not_counted()
                    if update.begun:
                        break
        yield {self.status: UNCHANGED}  # Gradio sends the last value twice

    async def _ask(self, request: gr.Request, conversation_id: str, value: dict[str, Any], which: Any, *sampling: Any) -> Updates:
        ask = self._service.questions.ask
        async for updates in self._answer(request, lambda session: ask(session, conversation_id, value, which), *sampling):
            yield updates

    async def _ask_example(self, request: gr.Request, event: gr.SelectData, conversation_id: str, *sampling: Any) -> Updates:
        example = EXAMPLES[event.index]
        value = {"text": example.text, "files": [str(EXAMPLES_FOLDER / example.image)] if example.image else []}
        ask = self._service.questions.ask
        async for updates in self._answer(request, lambda session: ask(session, conversation_id, value, typed=False), *sampling):
            yield updates

    async def _retry(self, request: gr.Request, conversation_id: str, *sampling: Any) -> Updates:
        retry = self._service.questions.retry
        async for updates in self._answer(request, lambda session: retry(session, conversation_id), *sampling):
            yield updates

    async def _continue(self, request: gr.Request, conversation_id: str, *sampling: Any) -> Updates:
        go_on = self._service.questions.go_on
        async for updates in self._answer(request, lambda session: go_on(session, conversation_id), *sampling):
            yield updates

    async def _edit(
        self, request: gr.Request, event: gr.EventData, conversation_id: str, input: dict[str, Any], *sampling: Any
    ) -> Updates:
        """Asks an edited question. The editor, which waits for the new history, is told of every other ending."""
        refusals: list[str] = []
        shown = False  # whether the page shows another history than the editor's, which closes the editor

        async def edited(session: PageSession) -> Question:
            if not self._kiosk.is_kiosk(request):
                sampling_from(*sampling)
            return await self._service.questions.edit(session, conversation_id, QuestionEdit.of(event._data), input)

        async for updates in self._answer(request, edited, *sampling, tell=refusals.append):
            shown = shown or self.history in updates
            yield updates
        if shown and refusals:
            show_notice(refusals[0])
        if refusals or not shown:
            yield {self.edit_refusal: f"{time.time_ns()} {(refusals or [NOT_ASKED])[0]}"}

    async def _follow(self, conversation_id: str, request: gr.Request) -> AsyncGenerator[Any, None]:
        with failures_as_notices():
            async with aclosing(self._service.follow(self._kiosk.session_of(request), conversation_id)) as updates:
                async for update in updates:
                    yield update.live
        yield UNCHANGED  # Gradio sends the last value twice

    async def _refresh(self, conversation_id: str, request: gr.Request) -> dict[Any, Any]:
        return await self._guarded_updates(self._service.refresh(self._kiosk.session_of(request), conversation_id))

    async def _stop(self, conversation_id: str, request: gr.Request) -> None:
        await guarded(self._service.stop(self._kiosk.session_of(request), conversation_id))

    async def _undo(self, conversation_id: str, input: dict[str, Any], request: gr.Request) -> dict[Any, Any]:
        return await self._guarded_updates(self._service.undo(self._kiosk.session_of(request), conversation_id, input))

    async def _select_version(self, conversation_id: str, event: gr.EventData, request: gr.Request) -> dict[Any, Any]:
        session = self._kiosk.session_of(request)
        return await self._guarded_updates(self._service.select_version(session, conversation_id, number_in(event)))

    async def _use_values(self, conversation_id: str, event: gr.EventData, request: gr.Request) -> list[Any]:
        """Sets the sampling controls to the values of an answer."""
        session = self._kiosk.session_of(request)
        sampling = await guarded(self._service.sampling_of(session, conversation_id, number_in(event)))
        return [gr.skip()] * 7 if sampling is None else self.sampling_controls.values_of(sampling)

    # --- handlers: the page ---------------------------------------------------------------------------------------------

    async def _open(self, request: gr.Request) -> dict[Any, Any]:
        conversation_id = request.query_params.get("c") or ""
        updates = await self._guarded_updates(self._service.open(self._kiosk.session_of(request), conversation_id))
        account = "" if self._kiosk.is_kiosk(request) else self._sidebar.account_html(request)
        return {**updates, self._sidebar.account: account}

    def _start_session(self, request: gr.Request) -> str:
        """Returns the arguments of the script START_SESSION, with a space between them."""
        session = self._kiosk.session_of(request)
        idle_seconds = self._kiosk.idle_seconds(request)
        return f"{session.id} {'remembered' if session.is_remembered else 'forgotten'} {idle_seconds}"

    async def _reset_kiosk(self, request: gr.Request) -> dict[Any, Any]:
        """Deletes all data of the previous visitor of a kiosk and shows the first screen. Does nothing on another page."""
        if not self._kiosk.is_kiosk(request):
            return self._updates(None)
        self._kiosk.reset(request)
        return await self._guarded_updates(self._service.erase(self._kiosk.session_of(request)))

    def owner_of(self, page_id: str, cookie_header: str | None, user: str | None) -> str:
        """The owner of what the page shows: of a kiosk, the page itself."""
        return (self._kiosk.kiosk_session(page_id) or page_session(page_id, cookie_header, user)).owner

    async def close_page(self, page_id: str) -> None:
        """Removes the state of a page that was closed. If the page was a kiosk, all its data is deleted."""
        session = self._kiosk.kiosk_session(page_id)
        try:
            if session is not None:
                await self._service.erase(session)
        finally:
            self._kiosk.close_page(page_id)
            self._service.close_page(page_id)


def _example_message(question: ExampleQuestion) -> ExampleMessage:
    """Returns the example question in the format of gr.Chatbot."""
    if question.image is None:
        return {"text": question.text, "display_text": question.text}
    path = str(EXAMPLES_FOLDER / question.image)
    return {"text": question.text, "display_text": question.text, "files": [path], "icon": path}


def _welcome(settings: Settings) -> str:
    """Returns the Markdown of the first screen: what the demo is, and how to begin."""
    sentence = "Follow up, and see what temperature, top-p and top-k do to the answer."
    if settings.kiosk:
        sentence = "Ask in your own words, and follow up."
    if settings.embedded:
        sentence = (
            "A tiny stand-in for Meta's model answers here: it knows simple drawings – animals, fruit and other emoji-like "
            "things, shapes, colours, short words – but neither photographs nor the world."
        )
        if not settings.kiosk:
            sentence += f"\n\n[To talk to a real vision model, put one on your laptop behind this page]({GUIDE_PATH.lstrip('/')})"
    how = "Take a photo, or add a picture" if settings.kiosk else "Add a picture with the paper clip, paste or drop it"
    return f"## Ask about a picture\n{sentence}\n\n{how} – or try one of these:"
