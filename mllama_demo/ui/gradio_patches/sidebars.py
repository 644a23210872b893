"""Opens the sidebars on wide screens.

Gradio: 6.31.0
Defect: gr.Sidebar is open or closed on every screen. Here a sidebar is open where it has its own place, from 1100 pixels on,
  and closed where it would cover the conversation.
Report: no upstream report known
Test: tests/browser/ui/test_gradio_patches.py::test_sidebars_are_open_on_wide_screens_only
"""

OPEN_ON_WIDE_SCREENS = """() => {
  if (window.innerWidth >= 1100)
    document.querySelectorAll(".sidebar:not(.open) .toggle-button").forEach((button) => button.click());
}"""
