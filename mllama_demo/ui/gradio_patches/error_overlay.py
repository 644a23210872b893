"""Events and notices that do not cover components with the word "Error".

Gradio: 6.31.0
Defect: Gradio gives every output of an event a status, and lays "Error" over an output whose event failed or lost its
  connection: over the whole conversation. `show_progress="hidden"` hides the progress but not the error.
Report: https://github.com/gradio-app/gradio/issues/12351
Test: tests/browser/ui/test_lost_connection.py::test_the_partial_answer_of_a_killed_program_is_shown_after_its_restart
"""

from __future__ import annotations

import html
from typing import Any

import gradio as gr
from gradio.components import Component

NOTICE_SECONDS = 12


def silent_event(invisible: Component) -> dict[str, Any]:
    """The arguments of an event without progress and overlay. invisible: a component that is not on the page has the status."""
    return {"show_progress": "hidden", "show_progress_on": invisible, "api_visibility": "private"}


def show_notice(sentence: str) -> None:
    """Shows a sentence, in which nothing is taken for HTML. A raised gr.Error would cover the conversation."""
    gr.Warning(html.escape(sentence), duration=NOTICE_SECONDS, title="Please note")
