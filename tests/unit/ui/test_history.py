"""The messages of a page: what takes long to format is shown as text."""

from __future__ import annotations

from typing import Any

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.ui.history import history
from mllama_demo.web.share.export import to_html

MESSAGES = (
    *(Message("user", "Hi"), Message("assistant", "**old**")),
    *(Message("user", "Hi"), Message("assistant", "**new**")),
)
NONE: Any = None  # no message has an image


def test_only_the_last_answers_of_an_endless_conversation_are_formatted(monkeypatch) -> None:
    monkeypatch.setattr("mllama_demo.chat.rendering.MAX_FORMATTED_PAGE", len("**new**Hi"))
    tree = MessageTree(title="x").with_messages(MESSAGES)
    shown = str(history(tree.conversation(), tree, NONE))
    page = to_html(Conversation(MESSAGES), lambda _: NONE)
    for html in (shown, page):
        assert "<strong>new</strong>" in html
        assert "<strong>old</strong>" not in html
        assert "**old**" in html
