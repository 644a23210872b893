"""Kiosk mode: a screen that passers-by use. Nobody sees what the one before asked, and nobody can ask without end.

A page is a kiosk by configuration or by ?kiosk=1 in its address. Its conversations belong to the page alone, apart from those
of the browser or of the user who signed it in, and are removed when it is left or idle.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import gradio as gr

from mllama_demo.config.settings import Settings
from mllama_demo.errors import LimitReached
from mllama_demo.ui.page_update import PageSession, PageUpdates, page_session_of
from mllama_demo.web.auth.identity import visitor_of

HOUR_S = 3600.0
OWNER_PREFIX = "kiosk-"


class Kiosk:
    """WhichImage pages are kiosks, and what their visitors have asked within the hour."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sessions: set[str] = set()
        self._asked: dict[str, deque[float]] = {}

    def is_one(self, request: gr.Request) -> bool:
        """Remembered for as long as the page is open, whatever becomes of its address."""
        session = str(request.session_hash)
        if self._settings.kiosk or request.query_params.get("kiosk") == "1":
            self._sessions.add(session)
        return session in self._sessions

    def visit(self, request: gr.Request) -> PageSession:
        """The visit, with an owner of its own on a kiosk."""
        self.is_one(request)
        return self.page(str(request.session_hash)) or page_session_of(request)

    def idle_seconds(self, request: gr.Request) -> str:
        """For the page; empty where it is no kiosk."""
        return f"{self._settings.kiosk_idle_s:g}" if self.is_one(request) else ""

    async def counted(self, request: gr.Request, ask: Callable[..., PageUpdates], *values: Any) -> PageUpdates:
        """The views of ask(visit, *values), counted as a question unless it fails. Raises LimitReached for one too many.

        By browser: a reload changes nothing, and where people sign in, several kiosks may be one user's.
        """
        # Counted before it is asked, so that several at once are not too many.
        counted = self._count(_browser_of(request)) if self.is_one(request) else None
        try:
            async with aclosing(ask(self.visit(request), *values)) as views:
                async for view in views:
                    yield view
        except Exception:
            if counted is not None:
                with contextlib.suppress(ValueError):  # the next visitor's questions are counted by now
                    self._asked.get(_browser_of(request), deque()).remove(counted)
            raise

    def _count(self, browser: str) -> float:
        now, most = time.monotonic(), self._settings.kiosk_messages_per_hour
        asked = self._asked.setdefault(browser, deque())
        while asked and asked[0] <= now - HOUR_S:
            asked.popleft()
        if len(asked) >= most:
            minutes = math.ceil((asked[0] + HOUR_S - now) / 60)
            questions = "question" if most == 1 else "questions"
            raise LimitReached(
                f"You have asked {most} {questions}, as many as one visitor can within an hour. The next one can be asked in "
                f"{minutes} {'minute' if minutes == 1 else 'minutes'}. Thank you for trying the demo!"
            )
        asked.append(now)
        return now

    def page(self, session: str) -> PageSession | None:
        """The visit of a page that is a kiosk."""
        return PageSession(f"{OWNER_PREFIX}{session}", session) if session in self._sessions else None

    def begin_anew(self, request: gr.Request) -> None:
        """The visitor has gone; the next one may ask as much."""
        self._asked.pop(_browser_of(request), None)

    def left(self, session: str) -> None:
        """The page was closed."""
        self._sessions.discard(session)


def _browser_of(request: gr.Request) -> str:
    return visitor_of(request.headers.get("cookie")) or page_session_of(request).owner
