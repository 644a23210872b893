"""The help dialog of the page: the keys, which keys.js handles, and hints."""

from __future__ import annotations

from html import escape

# Keys as they are printed on keyboards.
KEYS: tuple[tuple[str, str], ...] = (
    ("Enter", "Send the question"),
    ("Shift + Enter", "A new line in it"),
    ("Esc", "Stop the answer; what is there stays"),
    ("Alt + N", "New chat"),
    ("/", "To the question, from anywhere on the page"),
    ("Ctrl + V", "Paste an image, from anywhere on the page; ⌘ V on a Mac"),
    ("Tab", "From one button to the next"),
    ("?", "This help"),
)
HINTS: tuple[str, ...] = (
    "The model looks at one image at a time. “saw …” under an answer shows it as the model got it.",
    "Retry and Edit make another version; arrows under the answer switch between versions, nothing is lost.",
)
EXPLORE = '<a href="explore">Explore sampling</a>'
PRESENT = '<a href="present">Present</a>'
NOT_IN_A_KIOSK = (
    "Sampling values in the right sidebar apply to the next answer.",
    f"{EXPLORE} compares many of them at once.",
    f"{PRESENT} plays a prepared scenario, step by step.",
)


def links_html() -> str:
    """The links and buttons at the right end of the header. keys.js handles the buttons."""
    return (
        f'<nav aria-label="Page">{EXPLORE}{PRESENT}'
        '<button type="button" class="round-button new-chat-button" aria-label="New chat" title="New chat (Alt + N)"></button>'
        '<button type="button" class="round-button help-button" aria-label="Help and keys" title="Help and keys (?)">?</button>'
        "</nav>"
    )


def help_html() -> str:
    """The dialog, closed."""
    rows = "".join(f"<div><dt>{_keys(keys)}</dt><dd>{escape(what)}</dd></div>" for keys, what in KEYS)
    hints = "".join(f"<li>{escape(hint)}</li>" for hint in HINTS)
    hints += "".join(f'<li class="not-in-kiosk">{hint}</li>' for hint in NOT_IN_A_KIOSK)
    return (
        '<dialog class="help" aria-labelledby="help-title"><form method="dialog"><h2 id="help-title">Keys and hints</h2>'
        f'<button aria-label="Close">✕</button></form><dl class="keys">{rows}</dl><ul>{hints}</ul></dialog>'
    )


def _keys(keys: str) -> str:
    return " + ".join(f"<kbd>{escape(key)}</kbd>" for key in keys.split(" + "))
