"""Makes the queue of events look for new ones less often.

Gradio: 6.31.0
Defect: the queue looks for new events a thousand times a second. A demo that nobody uses takes 7 % of a core for that.
Report: no upstream report known
Test: tests/unit/ui/test_closed_pages.py::test_the_queue_looks_for_events_less_often
"""

from __future__ import annotations

import gradio as gr

# An event waits half of it on average, which is far below what a visitor notices.
PAUSE_S = 0.01


def poll_less_often(demo: gr.Blocks) -> None:
    """Called after demo.queue()."""
    demo._queue.sleep_when_free = PAUSE_S
