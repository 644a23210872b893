"""The chat page on a machine of the local network, where a browser gives a page without HTTPS fewer rights."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import PLAIN_HTTP_HOST, Browsers
from tests.support.program import Program

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def page(browsers: Browsers, server: Program) -> Page:
    page = browsers.open(replace(server, url=f"http://{PLAIN_HTTP_HOST}:{server.port}"))
    pages.open_chat(page)
    assert page.evaluate("window.isSecureContext") is False
    return page


def test_a_share_link_is_copied_over_plain_http(page: Page) -> None:
    pages.ask_and_wait(page, "What is 3 + 4?")
    pages.conversation_id(page)
    pages.open_share_dialog(page)
    with pages.settled(page):
        page.locator("#share").click()
    link = page.locator("#share-link textarea, #share-link input")
    expect(link).not_to_have_value("")
    address = link.input_value()
    page.locator("#share-link").get_by_role("button", name="Copy").click()
    page.keyboard.press("Escape")
    pages.textarea(page).focus()
    page.keyboard.press("Control+V")
    expect(pages.textarea(page)).to_have_value(address)
