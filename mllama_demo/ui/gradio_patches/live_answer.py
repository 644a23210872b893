"""A second chatbot for the answer that is being written, below the one with the messages.

Gradio: 6.31.0
Defect: each update of a Chatbot draws all its messages again, and an update of an event redraws also those outputs that it
  leaves unchanged. With a long conversation a page cannot draw twelve updates a second. So an answer that has begun is
  followed by an event whose only output is this chatbot.
Report: https://github.com/gradio-app/gradio/issues/7494
Test: tests/browser/ui/test_autoscroll.py::test_an_update_of_the_answer_redraws_no_message
"""

from __future__ import annotations

from typing import Any

import gradio as gr

# Hidden while it is empty, and for the moment in which the finished answer stands in both chatbots.
CSS = """
#live-answer:not(:has(.message-row)),
#messages:has(.bot-row:last-child, .bot-row + .message-buttons:last-child) + #live-answer { display: none; }
"""


def live_answer(**options: Any) -> gr.Chatbot:
    """The second chatbot; the first one has the elem_id "messages" and stands directly above it."""
    return gr.Chatbot(elem_id="live-answer", label="Answer", buttons=[], allow_tags=False, **options)
