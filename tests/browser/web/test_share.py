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
    for scheme in ("light", "dark"):
        other.emulate_media(color_scheme=scheme)
        assert not obstacles(other)
        pages.take_screenshot(other, f"share-phone-{scheme}")
    other.emulate_media(media="print")
    assert other.pdf().startswith(b"%PDF")

    page.keyboard.press("Escape")
    expect(page.locator("#share-dialog")).to_be_hidden()
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


def test_a_rating_and_its_note_are_stored_and_the_rating_is_shown_after_a_reload(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is it?")
    pages.message_button(page, "Dislike").click()
    note = page.locator("#note textarea")
    expect(note).to_be_visible()
    note.fill("It is <b>wrong</b>")
    assert not obstacles(page)
    page.locator("#send-note").click()
    expect(pages.notice(page)).to_contain_text("your note was kept")
    expect(note).to_be_hidden()
    pages.open_chat(page, page.url)
    expect(pages.message_button(page, "Disliked")).to_be_visible()
    expect(pages.message_button(page, "Like")).to_be_visible()
