"""Accessibility: axe finds no violation on the chat page and on the pages that have no tests of their own."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import Browsers
from tests.support.paths import EXAMPLE_IMAGES

pytestmark = pytest.mark.timeout(300)


def test_the_chat_page_has_no_accessibility_violation(browsers: Browsers):
    page = pages.open_chat(browsers.open())
    found = obstacles(page)
    pages.ask_and_wait(page, "What is in this image?", EXAMPLE_IMAGES / "dog.png")
    pages.retry(page)
    page.locator("#conversations .row-actions").click()
    pages.open_panel(page, "What the model sees")
    pages.attach(page, EXAMPLE_IMAGES / "stop.png")
    expect(page.locator("#which-image")).to_be_visible()
    found += obstacles(page)
    pages.show_tiles(page)
    expect(page.locator("dialog.tile-dialog")).to_be_visible()
    found += obstacles(page)
    assert not found, "\n".join(found)


def test_the_small_pages_have_no_accessibility_violation(browsers: Browsers):
    browsers.expect_complaint("404")
    page = browsers.open()
    for path in ("/laptop-model", "/no/such/page", "/docs", "/present"):
        page.goto(path)
        assert not obstacles(page), path
