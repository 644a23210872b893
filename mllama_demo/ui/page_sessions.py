"""The open pages of this process: which conversation each page shows, and which answer it follows."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from mllama_demo.chat.live_rendering import LiveRendering
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.generation.tasks import AnswerTask
from mllama_demo.ui.page_update import PageSession
from mllama_demo.ui.update_rate import UpdateRate

UPDATES_PER_SECOND = 12
# How often a page is updated while its question waits or the prompt is read: these show how long it takes.
PROGRESS_SECONDS = 1.0


class PageSessions:
    """An answer is shown only on pages that still show its conversation. Used from one event loop."""

    def __init__(self) -> None:
        self.update_rate = UpdateRate()
        self._shown: dict[str, str] = {}
        self._following: set[tuple[str, str]] = set()
        self._kept: dict[str, AnswerTask] = {}

    def show(self, page_id: str, conversation_id: str) -> None:
        """Notes which conversation the page shows; an empty id stands for a new chat."""
        self._kept.pop(page_id, None)
        if conversation_id:
            self._shown[page_id] = conversation_id
        else:
            self._shown.pop(page_id, None)

    def shown(self, page_id: str) -> str:
        """The id of the conversation that the page shows; empty for a new chat."""
        return self._shown.get(page_id, "")

    def close_page(self, page_id: str) -> None:
        self.show(page_id, "")
        self.update_rate.close_page(page_id)

    def watch(self, session: PageSession, task: AnswerTask, rendering: LiveRendering) -> AsyncGenerator[None, None]:
        """Yields when the page is to be updated with the answer, as often as the page can draw it and the server render it."""

        def rate() -> float:
            pause_s = max(1 / (UPDATES_PER_SECOND * self.update_rate.of(session.id)), rendering.pause_s)
            return 1 / pause_s

        return task.watch(rate, PROGRESS_SECONDS)

    def start_following(self, session: PageSession, task: AnswerTask) -> bool:
        """Whether the page may follow the answer now; False when it follows it already."""
        if (session.id, task.id) in self._following:
            return False
        self._following.add((session.id, task.id))
        return True

    def stop_following(self, session: PageSession, task: AnswerTask) -> None:
        self._following.discard((session.id, task.id))

    # --- the message tree of a complete answer --------------------------------------------------------------------------

    def keep_task(self, session: PageSession, task: AnswerTask) -> None:
        """Keeps an answer that the page shows: its message tree need not be read again when the answer is complete."""
        self._kept[session.id] = task

    def take_tree(self, session: PageSession, conversation_id: str) -> MessageTree | None:
        """The message tree with the complete answer, once; None when it must be read from the database."""
        task = self._kept.pop(session.id, None)
        complete = task is not None and task.id == conversation_id and task.saved and not task.discarded
        return task.tree if task is not None and complete else None

    def drop_tasks(self, conversation_id: str) -> None:
        """Forgets the answers of a conversation that is being changed."""
        self._kept = {page_id: task for page_id, task in self._kept.items() if task.id != conversation_id}
