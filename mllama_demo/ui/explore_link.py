"""The link under an answer to the page of Explore, which opens with the question, the image and the values of the answer."""

from __future__ import annotations

from html import escape
from urllib.parse import urlencode


def explore_link(conversation_id: str, number: int) -> str:
    """HTML. number: of the answer in the message tree."""
    address = "explore?" + urlencode({"conversation": conversation_id, "answer": number})
    return f'<div class="explore-link"><a href="{escape(address)}">Explore this answer</a></div>'
