"""The end of a conversation stays in view while it grows, except for a reader who scrolled up; an update redraws no message."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import Browsers
from tests.support.paths import EXAMPLE_IMAGES

pytestmark = pytest.mark.timeout(300)
# How far the end of the conversation is below the visible part, in pixels.
BELOW = """() => {
  const log = document.querySelector("#chat-history");
  return log.scrollHeight - log.scrollTop - log.clientHeight;
}"""
AT_END = f"() => ({BELOW})() < 40"


def long_answer(page: Page) -> None:
    """Starts an answer and waits until it has filled a low window."""
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


def test_a_reader_who_scrolls_up_stays_there_until_the_button_to_the_end_is_pressed(slow_page: Page) -> None:
    page = slow_page
    long_answer(page)
    to_end = page.get_by_role("button", name="To the end of the conversation")
    page.wait_for_function(AT_END)
    expect(to_end).to_be_hidden()
    scroll_up(page)
    place = page.locator("#chat-history").evaluate("log => log.scrollTop")
    pages.wait_growth(page, 5)
    assert page.locator("#chat-history").evaluate("log => log.scrollTop") == place
    to_end.click()
    page.wait_for_function(AT_END)
    expect(to_end).to_be_hidden()
    pages.wait_growth(page, 3)
    page.wait_for_function(AT_END)
    facts = page.locator("#chat-history .answer-metadata summary")
    expect(facts).not_to_be_in_viewport()
    page.keyboard.press("Tab")
    facts.focus()
    pages.wait_growth(page, 5)
    expect(facts).to_be_in_viewport()
    to_end.click()
    scroll_up(page)
    pages.stop_button(page).click()
    pages.wait_answered(page)
    expect(to_end).to_be_visible()
    pages.ask(page, "What is 3 + 4?")
    pages.wait_answered(page)
    page.wait_for_function(AT_END)


def test_a_conversation_opens_at_its_end_and_the_first_screen_at_its_top(page: Page) -> None:
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


def test_what_the_browser_scrolls_while_the_page_is_opened_is_not_taken_for_the_reader(browsers: Browsers) -> None:
    page = pages.open_chat(browsers.open(viewport={"width": 1280, "height": 480}, fresh=True))  # its clock is changed below
    pages.ask_and_wait(page, "What is in this image?", EXAMPLE_IMAGES / "dog.png")
    page.reload()
    expect(pages.bot_rows(page)).to_have_count(1)
    page.wait_for_function(AT_END)
    page.evaluate("performance.now = () => 500")  # milliseconds since the page was opened
    log = page.locator("#chat-history")
    log.evaluate("log => new Promise(seen => { log.addEventListener('scroll', seen, { once: true }); log.scrollTop = 0; })")
    grown = "Object.assign(document.createElement('div'), { style: 'height: 300px; flex: none' })"
    log.evaluate(f"log => log.querySelector('.message-row').append({grown})")
    page.wait_for_function(AT_END)


def test_an_update_of_the_answer_redraws_no_message(slow_page: Page) -> None:
    page = slow_page
    long_answer(page)
    page.evaluate(
        """() => {
          window.redrawn = 0;
          new MutationObserver((changes) => (window.redrawn += changes.length)).observe(document.querySelector("#messages"),
            { subtree: true, childList: true, characterData: true, attributes: true });
        }"""
    )
    pages.wait_growth(page, 10)
    assert page.evaluate("window.redrawn") == 0
    buttons = page.locator("#live-answer").get_by_role("button")
    assert buttons.count() == 0, "what is not done cannot be answered again, copied or judged"
    pages.stop_button(page).click()
    pages.wait_answered(page)
    assert page.evaluate("window.redrawn") > 0
    expect(page.locator("#live-answer .message-row")).to_have_count(0)
