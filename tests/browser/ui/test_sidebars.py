"""The sidebars beside and over the conversation, and the conversation without them: on paper and in forced colours."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import PHONE

pytestmark = pytest.mark.timeout(300)

HAS_FOCUS_IN_SIGHT = """() => {
  const box = document.activeElement.getBoundingClientRect();
  return box.right > 0 && box.left < innerWidth;
}"""


def test_sidebars_are_open_on_wide_screens_only(page: Page) -> None:
    pages.open_chat(page)
    for width, opened in ((pages.WIDE, 2), (pages.WIDE - 1, 0), (pages.WIDE, 2), (PHONE["width"], 0)):
        page.set_viewport_size({"width": width, "height": 800})
        expect(page.locator(".sidebar")).to_have_count(2)
        expect(page.locator(".sidebar.open")).to_have_count(opened)
    # What is in a closed one is out of reach.
    expect(page.get_by_label("Seed")).to_be_hidden()
    expect(page.locator("#new-chat")).to_be_hidden()
    pages.textarea(page).focus()
    for _ in range(25):
        page.keyboard.press("Tab")
        assert page.evaluate(HAS_FOCUS_IN_SIGHT), page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
    page.locator(".sidebar.right .toggle-button").click()
    expect(page.get_by_label("Seed")).to_be_visible()
    page.get_by_label("Seed").focus()
    page.keyboard.press("Escape")
    expect(page.locator(".sidebar.open")).to_have_count(0)
    expect(page.locator(".sidebar.right .toggle-button")).to_be_focused()


def test_a_conversation_is_printed_whole_and_alone(slow_page: Page, dictation: Path) -> None:
    """Also: the columns of a table are not broken within words on a phone."""
    paragraphs = [*"x" * 33, "z"]  # more than a screen, and less than max tokens
    dictation.write_text("\n\n".join(["| Instance | Recommended for |\n|---|---|\n| trn1.32xlarge | training |", *paragraphs]))
    slow_page.set_viewport_size(PHONE)
    pages.open_chat(slow_page)
    pages.ask_and_wait(slow_page, "What is there?")
    cells = slow_page.locator("#chat-history .rendered-text :is(th, td)")
    assert cells.evaluate_all(
        "cells => cells.every((cell) => cell.clientHeight < 2 * parseFloat(getComputedStyle(cell).lineHeight) + 20)"
    )
    assert cells.first.evaluate("cell => getComputedStyle(cell).wordBreak") == "normal"
    slow_page.set_viewport_size({"width": 1280, "height": 800})
    slow_page.emulate_media(media="print", color_scheme="dark")
    for selector in (".sidebar", "#question-row", "#links", ".message-buttons", ".text-actions"):
        assert not any(part.is_visible() for part in slow_page.locator(selector).all()), selector
    last = slow_page.locator("#chat-history .rendered-text p").last
    expect(last).to_have_text(paragraphs[-1])
    expect(last).to_have_css("color", "rgb(0, 0, 0)")
    bottom = last.evaluate("text => text.getBoundingClientRect().bottom + scrollY")
    assert bottom > 1000, "it needs more than one page"
    assert slow_page.evaluate("document.documentElement.scrollHeight") >= bottom, "and takes it"
