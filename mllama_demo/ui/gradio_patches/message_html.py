"""Messages of the chatbot that are HTML, shown as they are.

Gradio: 6.31.0, 6.17.3
Defect: the chatbot takes "<b>" in a message for a tag and "&lt;" for "<", removes unknown tags with the text after them, and its
  copy button copies the source of HTML instead of the text that the model wrote. It has no message type for finished HTML: the
  chatbot reads every text as Markdown, in which HTML ends at the first empty line.
Report: https://github.com/gradio-app/gradio/issues/10438
Test: tests/browser/ui/test_messages.py::test_an_answer_is_shown_and_copied_as_the_model_wrote_it
"""

from __future__ import annotations

from typing import Any

# The chatbot changes nothing in the HTML of a message. Whatever is shown must be escaped by the code that makes the HTML.
UNCHANGED_HTML: dict[str, Any] = {"sanitize_html": False, "allow_tags": False, "latex_delimiters": [], "buttons": []}


def html_part(html: str) -> dict[str, Any]:
    """A part of a message. html: one or more elements of HTML, the first of them a block such as <div>."""
    return {"type": "text", "text": html.replace("\r", "&#13;").replace("\n", "&#10;")}  # an empty line would end the HTML
