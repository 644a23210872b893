"""Sharing a conversation: a link for whoever gets it, on a light page that prints, until it is ended."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.browser.chat_page import EXAMPLE_IMAGES

pytestmark = pytest.mark.timeout(400)


def share(page: Page) -> str:
    """Shares the conversation that is open; the link."""
    with pages.settled(page):
        page.locator("#share").click()
    link = page.locator("#share-link").locator("input, textarea")
    expect(link).to_have_value(re.compile(r"^http://[\w.:]+/share/[\w-]{43}$"))
    return link.input_value()


def test_a_conversation_is_shared_read_by_a_stranger_and_shared_no_more(browsers: Browsers, page: Page):
    pages.open_chat(page)
    answer = pages.ask_and_wait(page, "What is in this image?", EXAMPLE_IMAGES / "dog.png")
    pages.open_panel(page, "This conversation")
    link = share(page)
    expect(page.locator("#share-said")).to_contain_text("Shared until")
    pages.shot(page, "share-in-the-drawer")

    stranger = browsers.open(viewport=PHONE)
    stranger.goto(link)
    expect(stranger.get_by_role("heading", level=1)).to_have_text("What is in this image?")
    expect(stranger.locator("article.answer")).to_contain_text(answer)
    picture = stranger.locator("article img")
    assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
    expect(stranger.locator("body")).to_contain_text("the link expires on")
    assert stranger.locator("script, form, input, textarea, button").count() == 0
    assert stranger.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing to scroll sideways"
    for scheme in ("light", "dark"):
        stranger.emulate_media(color_scheme=scheme)
        assert not obstacles(stranger)
        pages.shot(stranger, f"share-phone-{scheme}")
    stranger.emulate_media(media="print")
    assert stranger.pdf().startswith(b"%PDF")

    pages.ask_and_wait(page, "And this is private?")
    stranger.reload()
    expect(stranger.locator("article")).to_have_count(2)

    with pages.settled(page):
        page.locator("#stop-sharing").click()
    expect(page.locator("#share-said")).to_contain_text("no longer works")
    expect(page.locator("#stop-sharing")).to_be_hidden()
    browsers.expect_complaint("status of 410")
    stranger.reload()
    expect(stranger.get_by_role("heading", level=1)).to_have_text("This link is over")
    assert not obstacles(stranger)


def test_a_link_is_shown_once_and_that_there_is_one_stays_to_be_seen(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is it?")
    pages.open_panel(page, "This conversation")
    share(page)
    pages.open_chat(page, page.url)
    pages.open_panel(page, "This conversation")
    expect(page.locator("#share-said")).to_contain_text("Shared until")
    expect(page.locator("#share-link")).to_be_hidden()
    expect(page.locator("#stop-sharing")).to_be_visible()


def test_a_second_link_that_cannot_be_made_leaves_the_first_to_be_copied(browsers: Browsers, page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is it?")
    pages.open_panel(page, "This conversation")
    link = share(page)
    other = pages.open_chat(page.context.new_page(), page.url)
    pages.open_panel(other, "This conversation")
    with pages.settled(other):
        other.locator("#delete").click()
    with pages.settled(page):
        page.locator("#share").click()
    expect(pages.notice(page)).to_contain_text("There is no conversation")
    expect(page.locator("#share-link").locator("input, textarea")).to_have_value(link)


def test_where_nothing_was_said_there_is_nothing_to_share(page: Page):
    pages.open_chat(page)
    menu = page.get_by_role("button", name="This conversation")
    expect(menu).to_be_hidden()
    pages.ask_and_wait(page, "What is it?")
    expect(menu).to_be_visible()
    with pages.settled(page):
        page.locator("#new-chat").click()
    expect(menu).to_be_hidden()


def test_a_thumb_and_its_note_are_taken_and_the_thumb_is_still_there_after_a_reload(page: Page):
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
