"""Shows the answer that is being written in a chatbot of its own, below the chatbot with the messages.

Gradio: 6.31.0
Defect: each update of a Chatbot draws all messages of the Chatbot again. Each update of an event draws all outputs of the event
  again, also the outputs that the update leaves unchanged. With a long conversation a page cannot draw twelve updates a second.
  The chat page therefore streams an answer through an event whose only output is the chatbot of this module.
Report: https://github.com/gradio-app/gradio/issues/7494
Test: tests/browser/ui/test_autoscroll.py::test_an_update_of_the_answer_redraws_no_message
"""

from __future__ import annotations

from typing import Any

import gradio as gr

# Hides the live answer while it is empty, and while the last message of the first chatbot is an answer: for a moment, both
# chatbots have the finished answer.
CSS = """
#live-answer:not(:has(.message-row)),
#messages:has(.bot-row:last-child, .bot-row + .message-buttons:last-child) + #live-answer { display: none; }
"""


def live_answer(**options: Any) -> gr.Chatbot:
    """Makes the chatbot. The caller places it directly below the chatbot with the elem_id "messages", because the CSS needs that.

    Args:
        options: Arguments of gr.Chatbot, the same as those of the chatbot with the messages.
    """
    return gr.Chatbot(elem_id="live-answer", label="Answer", **options)
