"""Ratings of answers: the chatbot's Like and Dislike buttons, and the note that a visitor may add to a rating."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.errors import BadRequest
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.feedback import MAX_NOTE_LENGTH, Feedback
from mllama_demo.storage.threads import in_database_thread
from mllama_demo.ui.gradio_patches.hidden_components import visibility_classes
from mllama_demo.ui.page_update import PageSession, guarded

UP, DOWN = "Like", "Dislike"  # for these words the chatbot draws thumbs
NO_ANSWER = -1


def ratings_shown(tree: MessageTree, ratings: dict[int, bool]) -> list[str | None]:
    """The rating of each answer that the tree shows, in the chatbot's words. ratings: by the numbers of answers."""
    messages = tree.conversation().messages
    shown = zip(messages, tree.siblings(messages), strict=True)
    found = [ratings.get(version.number) for message, version in shown if message.role == "assistant" and version]
    return [None if good is None else UP if good else DOWN for good in found]


class FeedbackControls:
    """The components for a note, and the handlers of ratings.

    Args:
        model: Returns the name of the model, which is stored with each rating.
        session_of: Returns the session of a request.
    """

    def __init__(
        self,
        store: ConversationStore,
        feedback: Feedback,
        model: Callable[[], str],
        session_of: Callable[[gr.Request], PageSession],
    ) -> None:
        self._store, self._feedback, self._model, self._session_of = store, feedback, model, session_of

    def lay_out(self) -> None:
        self.rated = gr.Number(NO_ANSWER, visible=False, precision=0)
        with gr.Row(elem_classes=visibility_classes(False), elem_id="note-row", equal_height=True) as self.row:
            self.note = gr.Textbox(
                label="What was good or bad about it? (optional)",
                max_lines=3,
                max_length=MAX_NOTE_LENGTH,
                elem_id="note",
                scale=8,
            )
            self.send = gr.Button("Send note", size="sm", variant="primary", elem_id="send-note", scale=0, min_width=110)
            self.close = gr.Button("No note", size="sm", elem_id="no-note", scale=0, min_width=100)

    def wire(self, chatbot: gr.Chatbot, conversation_id: gr.Textbox, silent_event: dict[str, Any]) -> None:
        parts = [self.rated, self.row, self.note]
        chatbot.like(self._rate, conversation_id, parts, **silent_event)
        for event in (self.send.click, self.note.submit):
            event(self._add_note, [conversation_id, self.rated, self.note], parts, **silent_event)
        self.close.click(self._close_note, None, parts, **silent_event)
        conversation_id.change(self._close_note, None, parts, **silent_event)

    async def _rate(self, conversation_id: str, event: gr.LikeData, request: gr.Request) -> dict[Any, Any]:
        owner = self._session_of(request).owner
        index = event.index[0] if isinstance(event.index, (tuple, list)) else event.index
        liked = event.liked if isinstance(event.liked, (bool, str)) else None
        good = {True: True, UP: True, False: False, DOWN: False}.get(liked)

        def rate() -> int:
            tree = self._store.tree(owner, conversation_id)
            shown = tree.siblings(tree.conversation().messages)
            version = shown[index] if isinstance(index, int) and 0 <= index < len(shown) else None
            if version is None:
                raise BadRequest("Only an answer can be rated, once it is complete.")
            self._feedback.rate(owner, conversation_id, version.number, good, self._model())
            return version.number

        number = await guarded(in_database_thread(rate))
        if number is None or good is None:
            return self._close_note()
        return {self.rated: number, self.row: gr.update(elem_classes=visibility_classes(True)), self.note: ""}

    async def _add_note(self, conversation_id: str, number: Any, note: str, request: gr.Request) -> dict[Any, Any]:
        owner = self._session_of(request).owner

        async def add() -> bool:
            await in_database_thread(self._feedback.add_note, owner, conversation_id, int(number or NO_ANSWER), note or "")
            return True

        if not await guarded(add()):
            return {self.rated: gr.skip()}
        gr.Info("Thank you, your note was kept.", duration=4)
        return self._close_note()

    def _close_note(self) -> dict[Any, Any]:
        return {self.rated: NO_ANSWER, self.row: gr.update(elem_classes=visibility_classes(False)), self.note: ""}
