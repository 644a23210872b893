"""FeedbackControls under answers, and the note that may go with one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import gradio as gr

from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.errors import BadRequest
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.feedback import MAX_NOTE_LENGTH, Feedback
from mllama_demo.ui.page_update import PageSession, classes, guarded

UP, DOWN = "Like", "Dislike"  # Gradio draws thumbs for exactly these words
NOBODY = -1


def thumbs(tree: MessageTree, ratings: dict[int, bool]) -> list[str | None]:
    """What each answer shown was given, in the chatbot's words."""
    messages = tree.conversation().messages
    shown = zip(messages, tree.siblings(messages), strict=True)
    found = [ratings.get(version.number) for message, version in shown if message.role == "assistant" and version]
    return [None if good is None else UP if good else DOWN for good in found]


class FeedbackControls:
    """The note's components, and the wiring of the chatbot's thumbs. model: the name of the one that answers. visit: who
    sends a request."""

    def __init__(
        self, store: ConversationStore, feedback: Feedback, model: Callable[[], str], visit: Callable[[gr.Request], PageSession]
    ) -> None:
        self._store, self._feedback, self._model, self._visit = store, feedback, model, visit

    def lay_out(self) -> None:
        self.rated = gr.Number(NOBODY, visible=False, precision=0)
        with gr.Row(elem_classes=classes(False), elem_id="note-row", equal_height=True) as self.row:
            self.note = gr.Textbox(
                label="What was good or bad about it? (optional)",
                max_lines=3,
                max_length=MAX_NOTE_LENGTH,
                elem_id="note",
                scale=8,
            )
            self.send = gr.Button("Send note", size="sm", variant="primary", elem_id="send-note", scale=0, min_width=110)
            self.close = gr.Button("No note", size="sm", elem_id="no-note", scale=0, min_width=100)

    def wire(self, chatbot: gr.Chatbot, conversation_id: gr.Textbox, quiet: dict[str, Any]) -> None:
        parts = [self.rated, self.row, self.note]
        chatbot.like(self._rate, conversation_id, parts, **quiet)
        for event in (self.send.click, self.note.submit):
            event(self._note, [conversation_id, self.rated, self.note], parts, **quiet)
        self.close.click(self._closed, None, parts, **quiet)
        conversation_id.change(self._closed, None, parts, **quiet)

    async def _rate(self, conversation_id: str, event: gr.LikeData, request: gr.Request) -> dict[Any, Any]:
        owner = self._visit(request).owner
        index = event.index[0] if isinstance(event.index, (tuple, list)) else event.index
        good = {True: True, UP: True, False: False, DOWN: False}.get(event.liked)

        def rate() -> int:
            tree = self._store.tree(owner, conversation_id)
            shown = tree.siblings(tree.conversation().messages)
            version = shown[index] if isinstance(index, int) and 0 <= index < len(shown) else None
            if version is None:
                raise BadRequest("Only an answer can be rated, once it is complete.")
            self._feedback.rate(owner, conversation_id, version.number, good, self._model())
            return version.number

        number = await guarded(asyncio.to_thread(rate))
        if number is None or good is None:
            return self._closed()
        return {self.rated: number, self.row: gr.update(elem_classes=classes(True)), self.note: ""}

    async def _note(self, conversation_id: str, number: Any, note: str, request: gr.Request) -> dict[Any, Any]:
        owner = self._visit(request).owner

        async def keep() -> bool:
            await asyncio.to_thread(self._feedback.add_note, owner, conversation_id, int(number), note or "")
            return True

        if not await guarded(keep()):
            return {self.rated: gr.skip()}
        gr.Info("Thank you, your note was kept.", duration=4)
        return self._closed()

    def _closed(self) -> dict[Any, Any]:
        return {self.rated: NOBODY, self.row: gr.update(elem_classes=classes(False)), self.note: ""}
