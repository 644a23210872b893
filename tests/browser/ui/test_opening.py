"""The first second of the chat page: nothing moves, nothing false is shown, and one language."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import DESKTOP, PHONE, Browsers

pytestmark = pytest.mark.timeout(300)

MAX_SHIFT = 0.05
# Keeps the layout shifts of the page, and what a visitor could see in any frame.
WATCH = """
window.shifts = [];
window.seen = new Set();
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value);
}).observe({ type: "layout-shift", buffered: true });
const look = () => {
  for (const [name, selector] of Object.entries({ start: "#chat-history .placeholder", loading: "#status .loading" }))
    if (document.querySelector(selector)?.checkVisibility({ visibilityProperty: true })) window.seen.add(name);
  requestAnimationFrame(look);
};
look();
"""


def watched(page: Page) -> tuple[float, set[str]]:
    """The cumulative layout shift since the page was loaded, and what was to be seen."""
    result: dict[str, Any] = page.evaluate("() => ({ shift: shifts.reduce((sum, value) => sum + value, 0), seen: [...seen] })")
    return result["shift"], set(result["seen"])


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_moves_and_no_other_screen_is_shown_while_the_page_opens(browsers: Browsers, viewport) -> None:
    browsers.expect_complaint("Connection errored out")  # the page is left while it listens for events
    page = browsers.open(viewport=viewport, fresh=True)
    page.context.add_init_script(WATCH)
    pages.open_chat(page)
    shift, seen = watched(page)
    assert shift < MAX_SHIFT
    assert seen == {"start"}, "a model that is ready is never shown as loading"
    pages.ask_and_wait(page, "What is 3 + 4?")
    pages.conversation_id(page)
    pages.open_chat(page, page.url)
    pages.wait_answered(page)
    shift, seen = watched(page)
    assert shift < MAX_SHIFT
    assert seen == set(), "no start page before the conversation"


def test_a_page_whose_server_fails_is_shown_all_the_same(browsers: Browsers) -> None:
    browsers.expect_complaint("500|Connection errored out|aborted")
    page = browsers.open(fresh=True)
    page.route("**/gradio_api/queue/join*", lambda route: route.fulfill(status=500, body="{}"))
    page.goto("/")
    expect(page.locator("html")).not_to_have_class("opening")
    expect(pages.textarea(page)).to_be_visible()
    page.reload(wait_until="commit")
    page.wait_for_function("() => document.body")
    assert page.evaluate("document.documentElement.className") == "", "Gradio's client reloads a failing page again and again"


def test_the_page_is_english_in_a_browser_of_another_language(browsers: Browsers) -> None:
    page = pages.open_chat(browsers.open(locale="de-DE"))
    assert page.evaluate("document.documentElement.lang") == "en"
    labels = page.evaluate("[...document.querySelectorAll('[aria-label], [title]')].map((e) => e.ariaLabel || e.title)")
    text = page.locator("body").inner_text() + " ".join(labels)
    assert "Upload" in text
    for german in ("Senden", "Hochladen", "Datei", "Abbrechen", "Kopieren", "Löschen", "Einreichen"):
        assert german not in text


def test_stop_takes_the_place_of_the_send_button(slow_page: Page) -> None:
    pages.open_chat(slow_page)
    send, stop = slow_page.get_by_test_id("submit-button"), pages.stop_button(slow_page)
    place = send.bounding_box()
    expect(stop).to_be_hidden()
    pages.ask_endlessly(slow_page)
    expect(stop).to_be_visible()
    expect(send).to_be_hidden()
    covered = stop.bounding_box()
    assert place is not None
    assert covered is not None
    for side in ("x", "y", "width", "height"):
        assert abs(covered[side] - place[side]) < 3
    stop.click()
    expect(send).to_be_visible()
    expect(stop).to_be_hidden()


def test_an_unknown_address_shows_a_page_with_the_way_to_the_chat(page: Page, browsers: Browsers) -> None:
    browsers.expect_complaint("404")
    page.goto("/no/such/page")
    expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    page.get_by_role("link", name="To the chat").click()
    expect(pages.textarea(page)).to_be_visible()
