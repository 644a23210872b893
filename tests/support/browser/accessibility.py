"""What axe finds on a page that stands in the way of people who use a keyboard, a screen reader or more contrast."""

from __future__ import annotations

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

# Rules that Gradio itself breaks, each with the reason why this demo cannot keep it.
UPSTREAM = {
    "aria-required-parent": "the question field's thumbnails are items of no list",
    "aria-required-children": "the chatbot wraps its examples, which are buttons, in an element with the role of a list",
}


def obstacles(page: Page) -> list[str]:
    """The serious and critical violations on the page as it is, with the first places of each."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{violation['id']} ({violation['impact']}): {violation['help']}\n"
        + "\n".join(f"    {node['target']} {node['html'][:160]} {node['failureSummary']}" for node in violation["nodes"][:4])
        for violation in found
        if violation["impact"] in ("serious", "critical") and violation["id"] not in UPSTREAM
    ]
