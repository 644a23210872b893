"""Waiting for a backend, for programs that have nothing to do before it can answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from mllama_demo.errors import BackendUnavailable

if TYPE_CHECKING:
    from mllama_demo.engine.base import Backend

_TICK_S = 0.1


async def until_ready(backend: Backend, tell: Callable[[str], None] = lambda _: None) -> None:
    """Returns once a started backend can answer. tell: hears again and again what it does meanwhile.

    Raises BackendUnavailable with the cause when it never can.
    """
    while (status := backend.status()).state == "loading":
        tell(status.detail)
        await asyncio.sleep(_TICK_S)
    if status.state == "down":
        raise BackendUnavailable(status.detail)
