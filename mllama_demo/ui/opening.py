"""The opening page: what a browser shows from the first paint until the chat page has its conversation.

Gradio mounts its components before the server has said what they show: the sidebars open, the status line and the conversation
change, and everything moves. The components therefore stay hidden until the page is complete. Meanwhile the page shows the title
and a progress bar in the middle, as the loading page of web/loading_app.py does.
"""

from __future__ import annotations

# The page is shown after this time in any case, so that a failure of the server cannot hide it.
MAX_MS = 8000
_HEAD = """
<style>
  html.opening body {{ color-scheme: light dark; background: Canvas; }}
  html.opening gradio-app, html.opening .gradio-container {{ visibility: hidden; }}
  html.opening .sidebar, html.opening .sidebar-parent {{ transition: none !important; }}
  html.opening body::before, html.opening body::after {{ position: fixed; left: 50%; transform: translateX(-50%); }}
  html.opening body::before {{
    content: "{title}"; top: calc(50dvh - 2.25rem); width: 90vw; overflow: hidden; text-align: center; text-overflow: ellipsis;
    white-space: nowrap; font: bold 1.125rem/1.5 system-ui, sans-serif; color: CanvasText;
  }}
  html.opening body::after {{
    content: ""; top: calc(50dvh + .25rem); width: min(18rem, 70vw); height: .375rem; border-radius: 1rem;
    background: linear-gradient(90deg, transparent, {color}, transparent) -9rem 0 / 9rem 100% no-repeat, rgb(128 128 128 / .25);
    animation: mllama-opening 1.4s linear infinite;
  }}
  @keyframes mllama-opening {{ to {{ background-position: 20rem 0, 0 0; }} }}
  @media (prefers-reduced-motion: reduce) {{ html.opening body::after {{ animation: none; background-position: center, 0 0; }} }}
</style>
<script>
  // A page that never came as far as SHOW_PAGE is loaded again: Gradio's client does so, over and over, while the server fails.
  if (!sessionStorage.getItem("opening")) document.documentElement.classList.add("opening");
  sessionStorage.setItem("opening", "1");
  setTimeout(() => document.documentElement.classList.remove("opening"), {max_ms});
</script>
"""
# Two frames: Gradio draws the values of an event in the frame after it has them. A hidden field cannot take the focus: where
# there is a mouse, and so no keyboard on the screen, the question field takes it now.
SHOW_PAGE = """() => {
  sessionStorage.removeItem("opening");
  requestAnimationFrame(() => requestAnimationFrame(() => {
    document.documentElement.classList.remove("opening");
    if (document.activeElement === document.body && matchMedia("(hover: hover)").matches)
      document.querySelector("#chat-input textarea")?.focus({ preventScroll: true });
  }));
}"""


def opening_head(title: str, color: str) -> str:
    """The HTML for the page's head.

    Args:
        title: Plain text.
        color: The colour of the progress bar, as #rrggbb.
    """
    # As hexadecimal escapes of CSS, so that no character of the title ends the string or the style element.
    escaped = "".join(character if character.isalnum() else f"\\{ord(character):06x}" for character in title)
    return _HEAD.format(title=escaped, color=color, max_ms=MAX_MS)
