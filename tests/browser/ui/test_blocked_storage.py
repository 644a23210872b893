"""The pages in a browser that blocks cookies and storage."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import Browsers

pytestmark = pytest.mark.timeout(300)

BLOCK_STORAGE = """
for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, name, { get() { throw new DOMException("Access is denied for this document.", "SecurityError"); },
                                        configurable: true });
"""


@pytest.fixture
def page(browsers: Browsers) -> Page:
    """A page whose browser keeps nothing."""
    page = browsers.open(fresh=True)
    page.context.add_init_script(BLOCK_STORAGE)

    def without_cookies(route: Route) -> None:
        response = route.fetch()
        page.context.clear_cookies()  # fetch has kept the cookie
        route.fulfill(response=response, headers={n: v for n, v in response.headers.items() if n.lower() != "set-cookie"})

    for path in ("/", "/explore"):
        page.route(f"{browsers.server.url}{path}", without_cookies)
    return page


def test_the_chat_answers_and_says_that_nothing_is_kept(page: Page) -> None:
    pages.open_chat(page)
    expect(page.get_by_text("This browser keeps no cookies for this page")).to_be_in_viewport()
    assert "7" in pages.ask_and_wait(page, "What is 3 + 4?")
    expect(pages.listed(page)).to_have_count(1)
    pages.take_screenshot(page, "no-cookies")


def test_explore_says_what_it_needs(page: Page, browsers: Browsers) -> None:
    browsers.expect_complaint("400")
    page.goto("/explore")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("allow it, then reload").first).to_be_visible()


def test_a_browser_with_cookies_gets_no_notice(browsers: Browsers) -> None:
    page = pages.open_chat(browsers.open())
    expect(page.get_by_text("keeps no cookies")).to_have_count(0)
