"""Every key that the help lists does what the help says."""

from __future__ import annotations

import base64
import re

import pytest
from playwright.sync_api import Page, expect

from mllama_demo.ui.help import HINTS, KEYS
from tests.support.browser import chat_page as pages
from tests.support.paths import EXAMPLE_IMAGES

pytestmark = pytest.mark.timeout(300)

CAPITAL = "What is the capital of Italy?"
# What the page gets at the end of an answer: new rows, without the groups.
SEND_LIST_AGAIN = """() => {
  const list = document.querySelector("#conversations nav"), again = list.cloneNode(true);
  again.querySelectorAll(".group").forEach((group) => group.remove());
  list.replaceWith(again);
}"""


def test_the_help_lists_every_key_and_closes(page: Page):
    pages.open_chat(page)
    page.get_by_role("button", name="Help and keys").click()
    help = page.get_by_role("dialog", name="Keys and hints")
    for keys, what in KEYS:
        row = help.locator(".keys > div").filter(has=page.get_by_text(what, exact=True))
        expect(row.locator("kbd")).to_have_text(keys.split(" + "))
    expect(help.get_by_role("listitem")).to_contain_text([*HINTS, "Sampling values", "Explore sampling", "Present"])
    pages.take_screenshot(page, "help-desktop")
    page.keyboard.press("Escape")
    expect(help).to_be_hidden()
    page.locator("#page-title").click()
    page.keyboard.press("?")
    expect(help).to_be_visible()
    help.get_by_role("button", name="Close").click()
    expect(help).to_be_hidden()


def test_enter_sends_and_shift_enter_is_a_new_line(page: Page):
    pages.open_chat(page)
    field = pages.textarea(page)
    expect(field).to_be_focused()
    page.keyboard.type("What is the capital")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("of Italy?")
    expect(field).to_have_value("What is the capital\nof Italy?")
    expect(pages.user_rows(page)).to_have_count(0)
    page.keyboard.press("Enter")
    pages.wait_answered(page)
    expect(field).to_have_value("")


def test_a_question_mark_or_a_slash_can_be_typed_into_a_question(page: Page):
    pages.open_chat(page)
    page.keyboard.type("Is it 3/4?")
    expect(pages.textarea(page)).to_have_value("Is it 3/4?")
    expect(page.locator("dialog.help")).to_be_hidden()


def test_slash_focuses_the_question_field_and_types_nothing(page: Page):
    pages.open_chat(page)
    page.locator("#page-title").click()
    expect(pages.textarea(page)).not_to_be_focused()
    page.keyboard.press("/")
    expect(pages.textarea(page)).to_be_focused()
    expect(pages.textarea(page)).to_have_value("")


def test_keys_work_while_a_control_without_text_has_the_focus(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is 3 + 4?")
    for control in (page.locator("#conversations").get_by_role("link"), page.locator("#temperature").get_by_role("slider")):
        control.focus()
        page.keyboard.press("?")
        expect(page.locator("dialog.help")).to_be_visible()
        page.keyboard.press("Escape")
        control.focus()
        page.keyboard.press("/")
        expect(pages.textarea(page)).to_be_focused()
    expect(pages.textarea(page)).to_have_value("")


def test_escape_stops_the_answer(slow_page: Page):
    pages.open_chat(slow_page)
    pages.ask_endlessly(slow_page)
    slow_page.keyboard.press("Escape")
    pages.wait_answered(slow_page)
    assert "stopped by hand" in pages.answer_metadata(slow_page)


def test_tab_leaves_a_list_closed_and_escape_in_a_field_does_not_stop_the_answer(slow_page: Page):
    page = slow_page
    pages.open_chat(page)
    pages.ask_endlessly(page)
    preset, list = page.locator("#preset input"), page.get_by_role("listbox").filter(has=page.get_by_role("option"))
    preset.click()
    expect(list).to_be_visible()
    page.keyboard.press("Escape")
    expect(list).to_have_count(0)
    page.locator("#search").get_by_role("textbox").press("Escape")
    page.locator("#seed").get_by_role("textbox").press("Escape")
    preset.focus()
    page.keyboard.press("Tab")
    expect(preset).not_to_be_focused()
    page.wait_for_timeout(300)  # nothing says that the list stays closed
    expect(list).to_have_count(0)

    row = page.locator("#conversations li", has=page.locator("a"))
    row.get_by_role("button").click()
    page.locator("#chat-history").dispatch_event("scroll")
    expect(page.get_by_role("menu")).to_be_visible()
    expect(pages.stop_button(page)).to_be_visible()
    page.evaluate(SEND_LIST_AGAIN)
    expect(page.locator("#conversations .group")).to_have_count(1)
    expect(page.get_by_role("menu")).to_be_visible()
    expect(row.get_by_role("button")).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(row.get_by_role("button")).to_be_focused()

    preset.click()
    with pages.settled(page):
        page.keyboard.press("Alt+n")
    expect(pages.user_rows(page)).to_have_count(0)
    expect(pages.textarea(page)).to_be_focused()
    expect(list).to_have_count(0)


def test_alt_n_starts_a_new_chat_and_focuses_the_question_field(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, CAPITAL)
    page.locator("#page-title").click()
    page.keyboard.press("Alt+n")
    expect(pages.user_rows(page)).to_have_count(0)
    expect(page).not_to_have_url(re.compile("c="))
    expect(pages.textarea(page)).to_be_focused()
    expect(pages.listed(page)).to_have_text([CAPITAL])


def test_an_image_pasted_anywhere_is_attached(page: Page):
    pages.open_chat(page)
    page.locator("#page-title").click()
    data = base64.b64encode((EXAMPLE_IMAGES / "stop.png").read_bytes()).decode()
    page.evaluate(
        """(data) => {
          const clipboard = new DataTransfer();
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          clipboard.items.add(new File([bytes], "image.png", { type: "image/png" }));
          document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: clipboard, bubbles: true, cancelable: true }));
        }""",
        data,
    )
    expect(pages.attached(page)).to_have_count(1)
    expect(pages.textarea(page)).to_be_focused()
    pages.set_greedy(page, True)
    assert "STOP" in pages.ask_and_wait(page, "What does the text say?")


def test_a_phone_has_a_button_for_a_new_chat_in_the_header(browsers):
    page = pages.open_chat(browsers.open(viewport={"width": 390, "height": 844}))
    pages.ask_and_wait(page, CAPITAL)
    page.locator("#links").get_by_role("button", name="New chat").click()
    expect(pages.user_rows(page)).to_have_count(0)
