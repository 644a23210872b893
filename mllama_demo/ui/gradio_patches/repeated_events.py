"""Lets an event start again while its previous run goes on.

Gradio: 6.31.0
Defect: an event that is triggered while it runs is dropped, together with all events that were to follow it. A page that goes
  from one answer in progress to another starts to follow the second before the first run has ended.
Report: no upstream report known
Test: tests/browser/ui/test_queue.py::test_a_page_follows_the_question_that_it_shows
"""

from __future__ import annotations

from typing import Any

REPEATABLE: dict[str, Any] = {"trigger_mode": "multiple"}
