"""What axe finds on a page that stands in the way of people who use a keyboard, a screen reader or more contrast."""

from __future__ import annotations

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def obstacles(page: Page) -> list[str]:
    """The violations on the page as it is, with the first places of each."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{violation['id']} ({violation['impact']}): {violation['help']}\n"
        + "\n".join(f"    {node['target']} {node['html'][:160]} {node['failureSummary']}" for node in violation["nodes"][:4])
        for violation in found
    ]
