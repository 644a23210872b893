"""Present mode in a real browser: steps by keys, notes in step, and a recorded answer that says that it is one."""

from __future__ import annotations

import pytest
from browsers import Browsers
from playwright.sync_api import Page, expect
from test_accessibility import obstacles

pytestmark = pytest.mark.timeout(300)
RECORDED = {"text": "From the rehearsal.", "total_s": 1.0, "date": "3 March 2025", "model": "some-model"}


def play(page: Page) -> Page:
    page.goto("/present")
    page.get_by_role("link", name="A first look").click()
    expect(page.locator("#place")).to_have_text("1 / 4")
    return page


def test_keys_ask_go_on_and_go_back(page: Page):
    play(page)
    page.keyboard.press("PageDown")
    expect(page.locator("#answer")).to_contain_text("dog")
    expect(page.locator("#figures")).to_contain_text("tokens")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#place")).to_have_text("2 / 4")
    expect(page.locator("#answer")).to_be_empty()
    page.keyboard.press("PageUp")
    expect(page.locator("#answer")).to_contain_text("dog")
    expect(page.locator("#recorded")).to_be_hidden()


def test_the_notes_window_stays_in_step(page: Page):
    play(page)
    with page.expect_popup() as opened:
        page.keyboard.press("n")
    notes = opened.value
    expect(notes.locator("#place")).to_have_text("1 / 4")
    notes.get_by_role("button", name="Next").click()
    expect(page.locator("#answer")).to_contain_text("dog")
    notes.get_by_role("button", name="Next").click()
    expect(page.locator("#place")).to_have_text("2 / 4")
    expect(notes.locator("#prompt")).to_have_text(page.locator("#prompt").inner_text())


def test_a_failure_plays_the_recording_with_its_label(browsers: Browsers, page: Page):
    browsers.expect_complaint("net::ERR_")

    def with_recording(route):
        answer = route.fetch()
        told = answer.json()
        told["steps"][0]["recorded"] = RECORDED
        route.fulfill(response=answer, json=told)

    page.route("**/scenario.json", with_recording)
    page.route("**/steps/**", lambda route: route.abort())
    play(page)
    page.keyboard.press(" ")
    expect(page.locator("#answer")).to_have_text("From the rehearsal.")
    expect(page.locator("#recorded")).to_have_text("Recorded on 3 March 2025 · some-model")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#trouble")).to_contain_text("There is no recording of this step.")
    expect(page.locator("#answer")).to_be_empty()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_obstacle(browsers: Browsers, scheme: str):
    page = browsers.open(color_scheme=scheme)
    page.goto("/present")
    found = obstacles(page)
    play(page)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#answer")).to_contain_text("dog")
    assert not found + obstacles(page)
