"""Escapes the text of a question, so that the chatbot shows it as it was typed.

Gradio: 6.31.0
Defect: the chatbot takes "<b>" in a message for a tag and "&lt;" for "<", with every value of `allow_tags`. Escaped as HTML
  entities the text would look right, but the chatbot's copy and edit buttons would return the entities.
Report: https://github.com/gradio-app/gradio/issues/10438
Test: tests/browser/ui/test_persistence.py::test_special_tokens_and_tags_in_a_question_are_shown_as_typed
"""

from __future__ import annotations

import re

WORD_JOINER = "\u2060"  # invisible, and between "<" and a letter it prevents a tag


def escape_text(text: str) -> str:
    """The text of a question for the chatbot."""
    return re.sub(r"<(?=[A-Za-z/!?])|&(?=[A-Za-z#])", lambda found: found[0] + WORD_JOINER, text)


def unescape_text(text: str) -> str:
    """What was typed, from a text that the chatbot had from escape_text."""
    return text.replace("<" + WORD_JOINER, "<").replace("&" + WORD_JOINER, "&")
