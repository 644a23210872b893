"""The last value of each handler that is a generator: one that changes nothing.

Gradio: 6.31.0
Defect: Gradio sends the last value of a generator twice, and empties all outputs of a generator that yields nothing. A page
  that shows another conversation by now would be given the earlier answer once more.
Report: no upstream report known
Test: tests/unit/ui/test_gradio_patches.py::test_gradio_sends_the_last_value_of_a_generator_twice
"""

from __future__ import annotations

import gradio as gr

UNCHANGED = gr.skip()
