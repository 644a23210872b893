"""The end of a conversation stays in sight, unless one reads further up; and what is written leaves alone what was said."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.chat_page import EXAMPLE_IMAGES

pytestmark = pytest.mark.timeout(300)
# How far below what is seen the conversation ends, in pixels.
BELOW = """() => {
  const log = document.querySelector("#chat-history");
  return log.scrollHeight - log.scrollTop - log.clientHeight;
}"""
AT_END = f"() => ({BELOW})() < 40"


def long_answer(page: Page) -> None:
    """An answer under way that has filled a low window already."""
    page.set_viewport_size({"width": 1280, "height": 560})
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is in this image?", EXAMPLE_IMAGES / "dog.png")
    pages.ask_endlessly(page)
    pages.watch_growth(page)
    pages.wait_growth(page, 3)


def scroll_up(page: Page) -> None:
    page.locator("#chat-history").hover()
    page.mouse.wheel(0, -300)
    page.wait_for_function(f"() => ({BELOW})() >= 200")


def test_who_reads_further_up_is_left_there_and_finds_the_way_back(slow_page: Page) -> None:
    page = slow_page
    long_answer(page)
    way_back = page.get_by_role("button", name="To the end of the conversation")
    page.wait_for_function(AT_END)
    expect(way_back).to_be_hidden()
    scroll_up(page)
    place = page.locator("#chat-history").evaluate("log => log.scrollTop")
    pages.wait_growth(page, 5)
    assert page.locator("#chat-history").evaluate("log => log.scrollTop") == place
    way_back.click()
    page.wait_for_function(AT_END)
    expect(way_back).to_be_hidden()
    pages.wait_growth(page, 3)
    page.wait_for_function(AT_END)
    saw = page.locator("#chat-history .saw")
    expect(saw).not_to_be_in_viewport()
    page.keyboard.press("Tab")
    saw.focus()
    pages.wait_growth(page, 5)
    expect(saw).to_be_in_viewport()
    way_back.click()
    scroll_up(page)
    pages.stop_button(page).click()
    pages.wait_answered(page)
    expect(way_back).to_be_visible()
    pages.ask(page, "What is 3 + 4?")
    pages.wait_answered(page)
    page.wait_for_function(AT_END)


def test_a_conversation_opens_at_its_end_and_the_first_screen_at_its_head(page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 480})
    pages.open_chat(page)
    for question in ("What is in this image?", "What colour is it?"):
        pages.ask_and_wait(page, question, EXAMPLE_IMAGES / "dog.png" if pages.user_rows(page).count() == 0 else None)
    page.reload()
    expect(pages.bot_rows(page)).to_have_count(2)
    page.wait_for_function(AT_END)
    scroll_up(page)
    page.locator("#new-chat").click()
    expect(page.get_by_role("heading", name="Ask about a picture")).to_be_in_viewport()
    with pages.settled(page):
        pages.listed(page).first.click()
    expect(pages.bot_rows(page)).to_have_count(2)
    page.wait_for_function(AT_END)


def test_an_update_draws_nothing_anew_of_what_was_said(slow_page: Page) -> None:
    page = slow_page
    long_answer(page)
    page.evaluate(
        """() => {
          window.redrawn = 0;
          new MutationObserver((changes) => (window.redrawn += changes.length)).observe(document.querySelector("#said"),
            { subtree: true, childList: true, characterData: true, attributes: true });
        }"""
    )
    pages.wait_growth(page, 10)
    assert page.evaluate("window.redrawn") == 0
    buttons = page.locator("#live").get_by_role("button")
    assert buttons.count() == 0, "what is not done cannot be answered again, copied or judged"
    pages.stop_button(page).click()
    pages.wait_answered(page)
    assert page.evaluate("window.redrawn") > 0
    expect(page.locator("#live .message-row")).to_have_count(0)
