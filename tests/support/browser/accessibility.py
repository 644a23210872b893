"""What axe finds on a page that stands in the way of people who use a keyboard, a screen reader or more contrast."""

from __future__ import annotations

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.support.browser.chat_page import both_schemes

# The rules of axe that look at colours. The others find in dark what they find in light.
OF_COLOURS = ["color-contrast", "link-in-text-block"]


def obstacles(page: Page) -> list[str]:
    """The violations on the page as it is, in light and in dark, with the first places of each."""
    found: list[dict[str, Any]] = []
    for scheme in both_schemes(page):
        options: dict[str, Any] = {"resultTypes": ["violations"]}  # without the places that pass, which it describes as well
        if scheme == "dark":
            options["runOnly"] = {"type": "rule", "values": OF_COLOURS}
        violations = Axe().run(page, options=options).response["violations"]
        found += [{**violation, "scheme": scheme} for violation in violations]
    return [
        f"{violation['scheme']}: {violation['id']} ({violation['impact']}): {violation['help']}\n"
        + "\n".join(f"    {node['target']} {node['html'][:160]} {node['failureSummary']}" for node in violation["nodes"][:4])
        for violation in found
    ]
