"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 120.0


def wait_until(condition: Callable[[], Any], what: str | Callable[[], str], timeout: float = PATIENCE_S) -> Any:
    """Asks again and again; returns the first true answer. Raises AssertionError naming what never came."""
    deadline = time.monotonic() + timeout
    pause = 0.002
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what if isinstance(what, str) else what()}"
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return answer


async def until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE_S) -> None:
    """The same in an event loop."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        await asyncio.sleep(0.002)
