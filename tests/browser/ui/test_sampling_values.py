"""The sampling values of the page: their preset, their copy in the browser, and the facts of an answer."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.browser.chats import CAPITAL, DOG

pytestmark = pytest.mark.timeout(300)


def preset(page: Page) -> Locator:
    return page.locator("#preset input")


def test_values_of_no_preset_are_called_custom(page: Page):
    pages.open_chat(page)
    expect(preset(page)).to_have_value("Balanced")
    pages.set_slider(page, "temperature", 0.75)
    expect(preset(page)).to_have_value("Custom")
    pages.choose_preset(page, "Focused")
    expect(page.locator("#temperature input[type=number]")).to_have_value("0.3")
    expect(preset(page)).to_have_value("Focused")
    pages.set_greedy(page, True)
    expect(preset(page)).to_have_value("Custom")
    pages.set_greedy(page, False)
    expect(preset(page)).to_have_value("Focused")


@pytest.mark.parametrize("leave", ["Escape", "Tab", "click"])
def test_a_list_of_presets_that_is_opened_and_left_changes_nothing(page: Page, leave: str):
    pages.open_chat(page)
    pages.set_slider(page, "temperature", 0.75)
    pages.set_greedy(page, True)
    before = pages.slider_values(page)
    preset(page).click()
    expect(page.get_by_role("option", name="Wild")).to_be_visible()
    pages.textarea(page).click() if leave == "click" else page.keyboard.press(leave)
    expect(page.get_by_role("option", name="Wild")).to_be_hidden()
    pages.set_greedy(page, False)  # waits for the server; what the list had asked would be answered before
    assert pages.slider_values(page) == before
    expect(preset(page)).to_have_value("Custom")


def test_values_survive_a_reload_in_their_browser_only(browsers: Browsers):
    page = pages.open_chat(browsers.open())
    pages.set_slider(page, "temperature", 1.25)
    pages.set_slider(page, "max-tokens", 99)
    pages.set_seed(page, "4711")
    pages.set_ignore_eos(page, True)
    page.wait_for_function("() => JSON.parse(localStorage.getItem('sampling-values') ?? '{}').ignore_eos === true")
    with pages.settled(page):
        page.reload()
    expect(page.locator("#temperature input[type=number]")).to_have_value("1.25")
    expect(page.locator("#max-tokens input[type=number]")).to_have_value("99")
    expect(page.locator("#seed").locator("input, textarea")).to_have_value("4711")
    expect(page.locator("#ignore-eos input")).to_be_checked()
    expect(preset(page)).to_have_value("Custom")
    with pages.settled(page):
        page.goto("/?temperature=0.2&seed=5")  # a link of the Explore page
    expect(page.locator("#temperature input[type=number]")).to_have_value("0.2")
    expect(page.locator("#seed").locator("input, textarea")).to_have_value("5")
    other = pages.open_chat(browsers.open())
    expect(other.locator("#temperature input[type=number]")).to_have_value("0.6")


def test_the_page_works_where_the_browser_blocks_storage(fresh_page: Page):
    fresh_page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('blocked', 'SecurityError'); } })"
    )
    pages.open_chat(fresh_page)
    pages.set_slider(fresh_page, "temperature", 1.25)
    expect(preset(fresh_page)).to_have_value("Custom")
    assert "Rome" in pages.ask_and_wait(fresh_page, CAPITAL) or pages.last_bot_text(fresh_page)


@pytest.mark.parametrize("way", ["mouse", "keyboard", "touch"])
def test_the_facts_of_an_answer_open_and_can_be_copied_and_used(browsers: Browsers, way: str):
    page = browsers.open(viewport=PHONE, has_touch=True) if way == "touch" else browsers.open()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    pages.open_chat(page, "/?temperature=1.1&top_k=7&seed=42")
    pages.ask_and_wait(page, "What is in this image?", DOG)
    facts = page.locator("#chat-history .answer-metadata").last
    line = facts.locator("summary")
    expect(line).to_contain_text("saw dog.png, 640 × 480 px, 4 tiles")
    assert line.evaluate("(line) => line.getClientRects().length === 1 && line.offsetHeight < 45"), "one line"
    expect(facts.locator("dl")).to_be_hidden()
    if way == "keyboard":
        line.focus()
        page.keyboard.press("Enter")
    else:
        line.tap() if way == "touch" else line.click()
    expect(facts.locator("dl")).to_be_visible()
    for said in ("1.1", "42", "4 tiles, 2 × 2", "after", "of 2048 tokens", "finished"):
        expect(facts.locator("dl")).to_contain_text(said)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    pages.take_screenshot(page, f"answer-facts-{way}")
    facts.get_by_role("button", name="Copy seed").click()
    assert page.evaluate("navigator.clipboard.readText()") == "42"
    facts.get_by_role("button", name="Copy all").click()
    assert "\nTop-k: 7\n" in page.evaluate("navigator.clipboard.readText()")

    if way == "touch":
        page.get_by_role("button", name="Settings", exact=True).click()
    pages.choose_preset(page, "Wild")
    pages.set_seed(page, "")
    if way == "touch":
        page.get_by_role("button", name="Settings", exact=True).click()
    facts.get_by_role("button", name="Use these values").click()
    expect(page.locator("#seed").locator("input, textarea")).to_have_value("42")
    assert pages.slider_values(page) == {"temperature": 1.1, "top-p": 0.9, "top-k": 7}
