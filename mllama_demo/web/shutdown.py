"""The end of the program in order: no new requests, then time for the running answers, then a named error for those left.

Knows the requests that are open, and neither HTTP nor the backend's kind.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from mllama_demo.engine.base import SHUTTING_DOWN, BackendStatus, Event, FinishEvent
from mllama_demo.errors import BackendUnavailable

log = logging.getLogger(__name__)

CUT_OFF = "The demo is shutting down, so the answer is cut off here."
_POLL_S = 0.05
_END_S = 3.0  # for the backend to end the answers that are left


class Shutdown:
    """Whether the program is ending, and the requests that are open. Requests may come from any thread."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._begun = False
        self._cutting = False

    # --- for the backend that all requests go through -------------------------------------------------------------------

    def check(self) -> None:
        """Raises BackendUnavailable when the program takes no new requests."""
        if self._begun:
            raise BackendUnavailable(SHUTTING_DOWN)

    def opened(self, request_id: str) -> None:
        self._open.add(request_id)

    def closed(self, request_id: str) -> None:
        self._open.discard(request_id)

    def seen_in(self, event: Event) -> Event:
        """The event for the reader: an answer that is cut off ends with an error, not as if its reader had stopped it."""
        if self._cutting and isinstance(event, FinishEvent) and event.reason == "cancelled":
            return replace(event, reason="error", error=CUT_OFF)
        return event

    def seen_in_status(self, status: BackendStatus) -> BackendStatus:
        """The status for everybody: a program that is ending takes no requests."""
        return replace(status, state="down", detail=SHUTTING_DOWN, estimated_wait_s=None) if self._begun else status

    # --- for the web server ---------------------------------------------------------------------------------------------

    async def drain(self, cancel: Callable[[str], None], limit_s: float) -> None:
        """Takes no new requests, and returns when all open ones have ended.

        Args:
            cancel: Ends a request soon, see Backend.cancel.
            limit_s: Seconds that requests may go on. Those left then end with the error CUT_OFF.
        """
        self._begun = True
        if self._open and limit_s:
            log.info("shutting down; %d requests have %g s to end", len(self._open), limit_s)
        await self._until_none_is_open(limit_s)
        if not self._open:
            return
        log.warning("shutting down; %d requests are cut off", len(self._open))
        self._cutting = True
        for request_id in list(self._open):
            cancel(request_id)
        await self._until_none_is_open(_END_S)

    async def _until_none_is_open(self, limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while self._open and time.monotonic() < end:  # noqa: ASYNC110 - requests end in any thread
            await asyncio.sleep(_POLL_S)
