"""Renders an answer again and again while it is being written, without holding up the other answers of the server."""

from __future__ import annotations

import asyncio
import time

from mllama_demo.chat.rendering import render_answer

RENDER_SHARE = 5  # from one rendering of an answer to the next, at least this multiple of the time that the rendering takes


class LiveRendering:
    """The renderings of one answer for one page. A long answer takes longer to render, and is rendered less often.

    Attributes:
        pause_s: the least number of seconds from the start of the last rendering to the start of the next.
    """

    def __init__(self) -> None:
        self.pause_s = 0.0

    async def render(self, text: str, finished: bool = False) -> str:
        """Returns the HTML of `render_answer`, which a thread renders."""
        began = time.monotonic()
        html = await asyncio.to_thread(render_answer, text, finished)
        self.pause_s = RENDER_SHARE * (time.monotonic() - began)
        return html
