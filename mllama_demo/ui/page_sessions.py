"""The open pages of this process: which conversation each page shows, and which answer it follows."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from dataclasses import replace

from cachetools import LRUCache

from mllama_demo.chat.live_rendering import LiveRendering
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.generation.tasks import AnswerTask
from mllama_demo.ui.page_update import PageSession, PageUpdate, Version
from mllama_demo.ui.update_rate import UpdateRate

UPDATES_PER_SECOND = 12
# How often a page is updated while its question waits or the prompt is read: these show how long it takes.
PROGRESS_SECONDS = 1.0
MAX_PAGES = 10_000


class PageSessions:
    """An answer is shown only on pages that still show its conversation. Used from one event loop.

    The events of a page overlap: a conversation that is slow to open is ready after the click on "New chat" that followed. Each
    event that chooses what the page shows takes a number when it begins. What an event with a lower number sends later is
    dropped.
    """

    def __init__(self) -> None:
        self.update_rate = UpdateRate()
        self._numbers = itertools.count(1)
        self._shown: LRUCache[str, tuple[str, int]] = LRUCache(MAX_PAGES)  # conversation, and the number of its event
        self._lists: LRUCache[str, int] = LRUCache(MAX_PAGES)
        self._following: set[tuple[str, str]] = set()
        self._kept: dict[str, AnswerTask] = {}

    def next_version(self, page_id: str) -> Version:
        """The version of what an event that begins now will show, and of a list that is read now. Safe in every thread."""
        return page_id, next(self._numbers)

    def show(self, version: Version, conversation_id: str) -> None:
        """Notes which conversation the page shows, unless a later event has chosen another.

        Args:
            version: What `next_version` returned when the event began.
            conversation_id: Empty for a new chat.
        """
        page_id, number = version
        if version >= self.version(page_id):
            self._kept.pop(page_id, None)
            self._shown[page_id] = conversation_id, number

    def shown(self, page_id: str) -> str:
        """The id of the conversation that the page shows; empty for a new chat."""
        return self._shown.get(page_id, ("", 0))[0]

    def version(self, page_id: str) -> Version:
        """The version of what the page shows, and of an update of the same conversation."""
        return page_id, self._shown.get(page_id, ("", 0))[1]

    def current(self, update: PageUpdate) -> PageUpdate:
        """The update without a conversation or a list that is older than what its page shows."""
        if update.version is not None and update.version < self.version(update.version[0]):
            update = update.without_conversation()
        if update.list_version is not None:
            page_id, number = update.list_version
            if number < self._lists.get(page_id, 0):
                return replace(update, conversations=None, search_result=None)
            self._lists[page_id] = number
        return update

    def report_lag(self, page_id: str, lag_ms: float) -> None:
        """Adapts how often the page is updated. Does nothing for a page that shows no conversation: it may not exist."""
        if self.shown(page_id):
            self.update_rate.report_lag(page_id, lag_ms)

    def close_page(self, page_id: str) -> None:
        for known in (self._shown, self._lists, self._kept):
            known.pop(page_id, None)
        self.update_rate.close_page(page_id)

    def watch(self, session: PageSession, task: AnswerTask, rendering: LiveRendering) -> AsyncGenerator[None, None]:
        """Yields when the page is to be updated with the answer, as often as the page can draw it and the server render it."""

        def rate() -> float:
            pause_s = max(1 / (UPDATES_PER_SECOND * self.update_rate.of(session.id)), rendering.pause_s)
            return 1 / pause_s

        return task.watch(rate, PROGRESS_SECONDS)

    def start_following(self, session: PageSession, conversation_id: str) -> bool:
        """Whether the page may follow the conversation's answer now; False when it follows it already."""
        if (session.id, conversation_id) in self._following:
            return False
        self._following.add((session.id, conversation_id))
        return True

    def stop_following(self, session: PageSession, conversation_id: str) -> None:
        self._following.discard((session.id, conversation_id))

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
