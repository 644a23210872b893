"""Waits until a backend is ready. The commands rehearse, explore and batch call it before the first question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from mllama_demo.errors import BackendUnavailable, cause_of

if TYPE_CHECKING:
    from mllama_demo.engine.base import Backend

_POLL_INTERVAL_S = 0.1


async def until_ready(backend: Backend, report: Callable[[str], None] = lambda _: None) -> None:
    """Waits while the backend loads its model. Returns when the backend is ready.

    Args:
        backend: A backend that was started.
        report: Called every 0.1 s while the backend loads. The argument is a text that says what is being loaded.

    Raises:
        BackendUnavailable: The backend is down. The message is the cause, for the operator.
    """
    while (status := backend.status()).state == "loading":
        detail = cause_of(status.detail)
        report(detail if detail.endswith(".") else f"loading the model: {detail}")  # a sentence says what the model waits for
        await asyncio.sleep(_POLL_INTERVAL_S)
    if status.state == "down":
        raise BackendUnavailable(cause_of(status.detail))
