"""Waits until a backend is ready. For commands that need the model before they begin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from mllama_demo.errors import BackendUnavailable

if TYPE_CHECKING:
    from mllama_demo.engine.base import Backend

_POLL_INTERVAL_S = 0.1


async def until_ready(backend: Backend, report: Callable[[str], None] = lambda _: None) -> None:
    """Returns once a started backend is ready.

    Args:
        report: Called ten times a second with what is being loaded.

    Raises:
        BackendUnavailable: The backend is down. The message has the cause.
    """
    while (status := backend.status()).state == "loading":
        report(status.detail)
        await asyncio.sleep(_POLL_INTERVAL_S)
    if status.state == "down":
        raise BackendUnavailable(status.detail)
