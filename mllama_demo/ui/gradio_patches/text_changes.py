"""An event for every change of a text.

Gradio: 6.31.0
Defect: the `input` event of a Textbox does not fire for a text that was pasted or cleared. Its `change` event does, and also
  when a handler changes the text.
Report: no upstream report known
Test: tests/browser/ui/test_conversations.py::test_a_conversation_is_found_deleted_and_restored
"""

from __future__ import annotations

from typing import Any

import gradio as gr


def on_text_change(textbox: gr.Textbox, handler: Any, *, outputs: Any, **options: Any) -> None:
    """Calls the handler with the newest text; texts that change while it runs are skipped."""
    textbox.change(handler, textbox, outputs, trigger_mode="always_last", **options)
