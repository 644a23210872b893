"""Sharing a conversation by a link: a page without scripts that can be printed, until the sharing ends."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.paths import EXAMPLE_IMAGES

pytestmark = pytest.mark.timeout(400)


def share(page: Page) -> str:
    """Shares the conversation that is open; the link."""
    with pages.settled(page):
        page.locator("#share").click()
    link = page.locator("#share-link").locator("input, textarea")
    expect(link).to_have_value(re.compile(r"^http://[\w.:]+/share/[\w-]{43}$"))
    return link.input_value()


def test_a_conversation_is_shared_read_by_another_visitor_and_unshared(browsers: Browsers, page: Page):
    pages.open_chat(page)
    answer = pages.ask_and_wait(page, "What is in this image?", EXAMPLE_IMAGES / "dog.png")
    pages.open_share_dialog(page)
    link = share(page)
    expect(page.locator("#share-status")).to_contain_text("Shared until")
    pages.take_screenshot(page, "share-dialog")

    other = browsers.open(viewport=PHONE)
    other.goto(link)
    expect(other.get_by_role("heading", level=1)).to_have_text("What is in this image?")
    expect(other.locator("article.answer")).to_contain_text(answer)
    picture = other.locator("article img")
    assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
    expect(other.locator("body")).to_contain_text("the link expires on")
    assert other.locator("script, form, input, textarea, button").count() == 0
    assert other.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing to scroll sideways"
    assert not obstacles(other)
    pages.take_screenshots(other, "share-phone")
    other.emulate_media(media="print")
    assert other.pdf().startswith(b"%PDF")

    dialog = page.get_by_role("dialog", name="Share “What is in this image?”")
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('#share-dialog')")
    dialog.locator("#close-share").focus()
    page.keyboard.press("/")
    page.keyboard.press("Alt+n")
    expect(dialog.locator("#close-share")).to_be_focused()
    page.route("**/gradio_api/**", lambda route: route.abort())  # the dialog closes without the server
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("#conversations .row-actions")).to_be_focused()
    page.unroute_all()
    pages.ask_and_wait(page, "And this is private?")
    other.reload()
    expect(other.locator("article")).to_have_count(2)

    pages.open_share_dialog(page)
    with pages.settled(page):
        page.locator("#stop-sharing").click()
    expect(page.locator("#share-status")).to_contain_text("no longer works")
    expect(page.locator("#stop-sharing")).to_be_hidden()
    browsers.expect_complaint("status of 410")
    other.reload()
    expect(other.get_by_role("heading", level=1)).to_have_text("This link is over")
    assert not obstacles(other)


def test_a_share_link_is_shown_once_and_the_status_stays(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is it?")
    pages.open_share_dialog(page)
    share(page)
    pages.open_chat(page, page.url)
    pages.open_share_dialog(page)
    expect(page.locator("#share-status")).to_contain_text("Shared until")
    expect(page.locator("#share-link")).to_be_hidden()
    expect(page.locator("#stop-sharing")).to_be_visible()


def test_a_second_link_that_is_refused_leaves_the_first_link(browsers: Browsers, page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is it?")
    pages.open_share_dialog(page)
    link = share(page)
    other = pages.open_chat(page.context.new_page(), page.url)
    pages.choose_row_action(other, "Delete")
    with pages.settled(page):
        page.locator("#share").click()
    expect(pages.notice(page)).to_contain_text("There is no conversation")
    expect(page.locator("#share-link").locator("input, textarea")).to_have_value(link)
