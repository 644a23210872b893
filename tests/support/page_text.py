"""The HTML of the page, parsed into its text and its elements."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from mllama_demo.chat.conversation import Message
from mllama_demo.engine.base import BackendInfo, BackendStatus
from mllama_demo.ui.answer_facts import answer_facts
from mllama_demo.ui.formatting import status_line

INFO = BackendInfo("scripted", "a model", "cpu", slots=4, context_length=2048, tile_size=560, max_tiles=4)
READY = BackendStatus("ready", "", running=1, waiting=0, slots=4, max_waiting=64, estimated_wait_s=0.0)
METADATA: dict[str, Any] = {
    "sampling": {"temperature": 0.6, "top_p": 0.9, "top_k": 0, "max_tokens": 256, "seed": 7, "stop": []},
    "dropped": 0,
    "reason": "end_of_turn",
    "error": None,
    "prompt_tokens": 17,
    "completion_tokens": 5,
    "waited_s": 0.0,
    "ttft_s": 0.42,
    "tokens_per_second": 31.6,
}
BOAT = {"digest": "1" * 64, "name": "boat.png", "width": 640, "height": 480, "rows": 1, "columns": 1}


class Page(HTMLParser):
    """HTML as a browser parses it: the elements with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def answer_page(**changes: Any) -> Page:
    return Page(answer_facts(Message("assistant", "A boat.", metadata={**METADATA, **changes})))


def status_page(**changes: Any) -> Page:
    return Page(status_line(replace(READY, **changes), INFO))
