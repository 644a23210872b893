"""Kiosk mode, for a screen that passers-by use: nobody sees the questions of the person before, and questions are limited.

A page is a kiosk by configuration or by ?kiosk=1 in its address. The page alone owns its conversations, apart from those of the
browser or of the user who signed it in. They are deleted when the page is closed or idle.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import gradio as gr
from cachetools import LRUCache

from mllama_demo.config.settings import Settings
from mllama_demo.errors import LimitReached
from mllama_demo.runtime.words import counted
from mllama_demo.ui.page_update import KIOSK, PageSession, page_session_of
from mllama_demo.web.auth.identity import visitor_id

HOUR_S = 3600.0
_MAX_BROWSERS = 10_000  # counted at the same time, the last ones, so that made-up cookies cannot fill the memory


class Kiosk:
    """Which open pages are kiosks, and the times of the questions that each browser asked within the last hour."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._page_ids: set[str] = set()
        self._asked: LRUCache[str, deque[float]] = LRUCache(_MAX_BROWSERS)

    def is_kiosk(self, request: gr.Request) -> bool:
        """Whether the page is a kiosk. A page that was one once stays one until it is closed, with any address."""
        page_id = str(request.session_hash)
        if self._settings.kiosk or request.query_params.get("kiosk") == "1":
            self._page_ids.add(page_id)
        return page_id in self._page_ids

    def session_of(self, request: gr.Request) -> PageSession:
        """The session of the page. On a kiosk it has an owner of its own."""
        self.is_kiosk(request)
        session = page_session_of(request)
        kiosk = self.kiosk_session(session.id)
        return session if kiosk is None else replace(kiosk, address=session.address)

    def kiosk_session(self, page_id: str) -> PageSession | None:
        """The session of a page that is a kiosk; None for another page."""
        return PageSession(f"{KIOSK}{page_id}", page_id) if page_id in self._page_ids else None

    def idle_seconds(self, request: gr.Request) -> str:
        """After how many idle seconds the page is reset; empty when it is no kiosk."""
        return f"{self._settings.kiosk_idle_s:g}" if self.is_kiosk(request) else ""

    @contextmanager
    def counted(self, request: gr.Request) -> Iterator[Callable[[], None]]:
        """Counts what is asked in the block as one question of this browser; a question that fails does not count.

        Yields a function for the block to call when the answer failed without an exception.

        The browser counts, not the page or the user: a reload must not reset the count, and one user may have several kiosks.

        Raises:
            LimitReached: The browser has asked as many questions as it may within an hour.
        """
        # Counted before the question is asked: questions that are sent at the same time must not exceed the limit.
        asked_at = self._count(_browser_of(request)) if self.is_kiosk(request) else None

        def forget() -> None:
            if asked_at is not None:
                with contextlib.suppress(ValueError):  # reset was called: the questions are another visitor's by now
                    self._asked.get(_browser_of(request), deque()).remove(asked_at)

        try:
            yield forget
        except Exception:
            forget()
            raise

    def _count(self, browser: str) -> float:
        now, limit = time.monotonic(), self._settings.kiosk_messages_per_hour
        asked = self._asked.setdefault(browser, deque())
        while asked and asked[0] <= now - HOUR_S:
            asked.popleft()
        if len(asked) >= limit:
            retry_s = asked[0] + HOUR_S - now
            minutes = math.ceil(retry_s / 60)
            raise LimitReached(
                f"You have asked {counted(limit, 'question')}, as many as one visitor can within an hour. The next one can "
                f"be asked in {counted(minutes, 'minute')}. Thank you for trying the demo!",
                retry_s,
                "kiosk_questions",
            )
        asked.append(now)
        return now

    def reset(self, request: gr.Request) -> None:
        """The visitor has left: the next one may ask as many questions."""
        self._asked.pop(_browser_of(request), None)

    def close_page(self, page_id: str) -> None:
        self._page_ids.discard(page_id)


def _browser_of(request: gr.Request) -> str:
    return visitor_id(request.headers.get("cookie")) or page_session_of(request).owner
