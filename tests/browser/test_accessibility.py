"""No serious obstacle for people who use a keyboard, a screen reader or more contrast, by axe's rules."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import Browsers
from tests.support.browser.chat_page import EXAMPLE_IMAGES

pytestmark = pytest.mark.timeout(300)

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_has_no_serious_obstacle(browsers: Browsers, scheme: str):
    page = pages.open_chat(browsers.open(color_scheme=scheme))
    found = obstacles(page)
    pages.ask_and_wait(page, "What is in this image?", EXAMPLE_IMAGES / "dog.png")
    pages.retry(page)
    pages.open_panel(page, "This conversation")
    pages.open_panel(page, "What the model sees")
    pages.open_panel(page, "Camera or web address")
    pages.attach(page, EXAMPLE_IMAGES / "stop.png")
    expect(page.locator("#which-image")).to_be_visible()
    found += obstacles(page)
    page.locator("#chat-history .saw").click()
    expect(page.locator("dialog.closeup")).to_be_visible()
    found += obstacles(page)
    assert not found, "\n".join(found)
