"""Opens the sidebars on wide screens, and shuts them on narrow ones.

Gradio: 6.31.0
Defect: gr.Sidebar is open or closed on every screen. Here a sidebar is open where it has its own place, from 1100 pixels on,
  and closed where it would cover the conversation, also after the window has changed its width.
Report: no upstream report known
Test: tests/browser/ui/test_sidebars.py::test_sidebars_are_open_on_wide_screens_only
"""

OPEN_ON_WIDE_SCREENS = """() => {
  let wide = null;
  const follow = () => {
    if (wide === (window.innerWidth >= 1100)) return;
    wide = window.innerWidth >= 1100;
    document.querySelectorAll(`.sidebar${wide ? ":not(.open)" : ".open"} .toggle-button`).forEach((button) => button.click());
  };
  follow();
  window.addEventListener("resize", follow); // not a media query: the width of a sheet of paper would change that too
}"""
