"""Hides and shows components with a CSS class instead of `visible`.

Gradio: 6.31.0
Defect: an update of `visible` draws the whole page again. On a slow device the components come back with earlier values: a
  question that was just sent stands in the question field again. The form around a hidden component keeps its height.
Report: https://github.com/gradio-app/gradio/issues/12535
Test: tests/browser/ui/test_chat.py::test_a_sent_question_does_not_reappear_in_the_field_on_a_slow_device
"""

from __future__ import annotations

HIDDEN = "is-hidden"
CSS = f"""
.{HIDDEN} {{ display: none !important; }}
main.contain > .column > .form:not(:has(> :not(.hidden, .hide, .{HIDDEN}, :empty))) {{ display: none !important; }}
"""


def visibility_classes(shown: bool) -> list[str]:
    """The elem_classes of a component that is shown or hidden."""
    return [] if shown else [HIDDEN]
