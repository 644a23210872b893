"""Switches the run history off where Gradio has one.

Gradio: 6.31.0, 6.17.3
Defect: newer versions store each run in the visitor's browser unless `run_history=False`; 6.17.3, which the Neuron SDK needs
  (requirements-neuron.txt), refuses the argument as unknown.
Report: no upstream report known
Test: tests/unit/ui/test_gradio_patches.py::test_the_run_history_is_off_in_versions_that_have_one
"""

from __future__ import annotations

import inspect
from typing import Any

import gradio as gr


def without_run_history() -> dict[str, Any]:
    """Arguments of gr.mount_gradio_app."""
    return {"run_history": False} if "run_history" in inspect.signature(gr.mount_gradio_app).parameters else {}
