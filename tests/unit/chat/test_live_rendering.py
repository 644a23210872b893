"""An answer that is being written is rendered in a thread, for a bounded share of the time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from mllama_demo.chat import live_rendering
from mllama_demo.chat.live_rendering import RENDER_SHARE, LiveRendering


def in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def test_the_event_loop_does_not_render(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool, bool]] = []
    monkeypatch.setattr(
        live_rendering, "render_answer", lambda text, finished: asked.append((text, finished, in_event_loop())) or "<div></div>"
    )
    assert await LiveRendering().render("a") == "<div></div>"
    await LiveRendering().render("a", finished=True)
    assert asked == [("a", False, False), ("a", True, False)]


async def test_the_pause_grows_with_the_time_that_a_rendering_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    rendering, times = LiveRendering(), iter([10.0, 12.0, 20.0, 20.5])
    assert rendering.pause_s == 0
    monkeypatch.setattr(live_rendering, "time", SimpleNamespace(monotonic=lambda: next(times)))
    await rendering.render("a")
    assert rendering.pause_s == 2 * RENDER_SHARE
    await rendering.render("a")
    assert rendering.pause_s == 0.5 * RENDER_SHARE
