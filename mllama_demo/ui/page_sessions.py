"""The open pages: which conversation each of them shows, and how it follows an answer under way."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from mllama_demo.generation.tasks import AnswerTask
from mllama_demo.ui.history import under_way
from mllama_demo.ui.page_update import PageSession, PageUpdate, PageUpdates
from mllama_demo.ui.update_rate import UpdateRate

UPDATES_PER_SECOND = 12
# How often the page hears that an answer still waits or is still being read.
PULSE_SECONDS = 1.0


class PageSessions:
    """All pages of this process. An answer must not write itself over another conversation that was opened meanwhile."""

    def __init__(self) -> None:
        self.pace = UpdateRate()
        self._showing: dict[str, str] = {}
        self._following: set[tuple[str, str]] = set()

    def show(self, session: str, conversation_id: str) -> None:
        """The page shows this conversation now; none, when the id is empty."""
        if conversation_id:
            self._showing[session] = conversation_id
        else:
            self._showing.pop(session, None)

    def shown(self, session: str) -> str:
        """The conversation's id; empty when the page shows none."""
        return self._showing.get(session, "")

    def leave(self, session: str) -> None:
        self.show(session, "")
        self.pace.leave(session)

    async def turns(
        self, visit: PageSession, live: AnswerTask, context_length: int
    ) -> AsyncGenerator[dict[str, Any] | None, None]:
        """The turn of an answer under way, as often as the page keeps up with; None, and no more, when it shows something else.

        For Gradio repeats a generator's last view when it ends: that must be nothing of this conversation.
        """
        rate = lambda: UPDATES_PER_SECOND * self.pace.of(visit.session)  # noqa: E731
        async with aclosing(live.watch(rate, PULSE_SECONDS)) as moments:
            async for _ in moments:
                if self.shown(visit.session) != live.id:
                    yield None
                    return
                if not live.done:
                    yield under_way(live.answer, context_length)

    async def follow(self, visit: PageSession, live: AnswerTask, context_length: int) -> PageUpdates:
        """Its views to the end, which raises what ended it. A page that follows the answer already is left alone."""
        page = visit.session, live.id
        if page in self._following:
            return
        self._following.add(page)
        try:
            async with aclosing(self.turns(visit, live, context_length)) as turns:
                async for turn in turns:
                    yield PageUpdate() if turn is None else PageUpdate(live=[turn])
                    if turn is None:
                        return
        finally:
            self._following.discard(page)
        if live.error is not None:
            raise live.error
