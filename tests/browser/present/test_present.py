# pyright: reportArgumentType=false
"""Present mode in a browser: keys, the notes window, rehearsals and accessibility."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import RECORD_WAKE_LOCKS, Browsers
from tests.support.browser.chat_page import take_screenshots
from tests.support.paths import EXAMPLE_IMAGES
from tests.support.program import Program, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def branded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    brand = ("--brand-logo", str(EXAMPLE_IMAGES / "stop.png"), "--brand-color", "#facc15", "--brand-footer", "Stand 7, hall 3")
    with running(tmp_path_factory.mktemp("branded"), "--title", "Harbour Fair", *brand) as program:
        program.wait_ready()
        yield program


def play(page: Page) -> Page:
    page.goto("/present")
    page.get_by_role("link", name="A first look", exact=True).click()
    expect(page.locator("#place")).to_have_text("1 / 4")
    return page


def rehearse(page: Page, name: str = "first-look") -> Locator:
    page.goto(f"/present/{name}/rehearsal")
    page.get_by_role("button", name="Rehearse").click()
    return page.locator("#said")


def test_keys_ask_a_step_and_move_between_steps(page: Page):
    play(page)
    page.get_by_role("button", name="A question from the audience").click()
    page.keyboard.press("Escape")
    page.keyboard.press(" ")  # the step, not the button that was clicked
    expect(page.locator("#question-dialog")).to_be_hidden()
    expect(page.locator("#answer")).to_contain_text("dog")
    expect(page.locator("#figures")).to_contain_text("tokens")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#place")).to_have_text("2 / 4")
    expect(page.locator("#answer")).to_be_empty()
    page.keyboard.press("PageUp")
    expect(page.locator("#answer")).to_contain_text("dog")
    expect(page.locator("#recorded")).to_be_hidden()


def test_the_notes_window_follows_the_presentation(page: Page):
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


def test_the_screen_stays_on_while_the_stage_is_shown(fresh_page: Page):
    fresh_page.context.grant_permissions(["screen-wake-lock"])  # the Chromium without windows refuses it otherwise
    fresh_page.add_init_script(RECORD_WAKE_LOCKS)
    play(fresh_page)
    fresh_page.wait_for_function("window.wakeLocks.length === 1 && !window.wakeLocks[0].released")
    fresh_page.evaluate("window.wakeLocks[0].release()")  # as when another tab hides this one
    fresh_page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    fresh_page.wait_for_function("window.wakeLocks.length === 2 && !window.wakeLocks[1].released")


def test_a_held_key_counts_once(slow_page: Page):
    play(slow_page)
    for _ in range(3):
        slow_page.keyboard.down("PageDown")
    expect(slow_page.locator("body")).to_have_attribute("data-phase", "busy")
    expect(slow_page.locator("#place")).to_have_text("1 / 4")
    slow_page.keyboard.up("PageDown")
    slow_page.locator("#next").focus()
    for _ in range(3):
        slow_page.keyboard.down("Enter")
    expect(slow_page.locator("#place")).to_have_text("2 / 4")
    expect(slow_page.locator("body")).to_have_attribute("data-phase", "new")


def test_notes_follow_the_page_that_opened_them(page: Page):
    """Also after that was reloaded."""
    play(page)
    other = play(page.context.new_page())
    other.keyboard.press("PageDown")
    other.keyboard.press("PageDown")
    with page.expect_popup() as opened:
        page.keyboard.press("n")
    notes = opened.value
    page.reload()
    expect(notes.locator("#place")).to_have_text("1 / 4")
    other.keyboard.press("PageDown")
    expect(other.locator("body")).to_have_attribute("data-phase", "done")
    notes.get_by_role("button", name="Next").click()
    expect(page.locator("#answer")).to_contain_text("dog")
    expect(notes.locator("#place")).to_have_text("1 / 4")
    notes.get_by_role("button", name="Next").click()
    expect(page.locator("#place")).to_have_text("2 / 4")
    expect(other.locator("#place")).to_have_text("2 / 4")
    expect(other.locator("body")).to_have_attribute("data-phase", "done")
    by_hand = page.context.new_page()
    other.close()
    by_hand.goto("/present/first-look/notes")
    expect(by_hand.locator("#place")).to_have_text("2 / 4")
    by_hand.get_by_role("button", name="Back").click()
    expect(page.locator("#place")).to_have_text("1 / 4")


def test_a_sign_of_waiting_is_shown_until_the_first_word(page: Page):
    held: list[Route] = []
    page.route("**/steps/**", lambda route: held.append(route))
    play(page)
    page.keyboard.press("PageDown")
    expect(page.locator("#waiting")).to_have_text("The question is on its way")
    expect(page.locator("#waiting .dots")).to_be_visible()
    held[0].continue_()
    expect(page.locator("#answer")).to_contain_text("dog")
    expect(page.locator("#waiting")).to_be_hidden()


@pytest.mark.parametrize("key", ["b", "."])
def test_a_black_screen_hides_everything_until_the_next_key(page: Page, key: str):
    play(page)
    page.keyboard.press(key)
    black = page.locator("#black")
    expect(black).to_be_visible()
    assert black.evaluate("box => box.clientWidth === innerWidth && box.clientHeight === innerHeight")
    assert page.evaluate("document.elementFromPoint(innerWidth / 2, innerHeight / 2).id") == "black"
    page.keyboard.press("PageDown")
    expect(black).to_be_hidden()
    expect(page.locator("body")).to_have_attribute("data-phase", "new")
    with page.expect_popup() as opened:
        page.keyboard.press("n")
    expect(opened.value.locator("#place")).to_have_text("1 / 4")
    opened.value.get_by_role("button", name="Black screen").click()
    expect(black).to_be_visible()
    expect(opened.value.get_by_role("button", name="Black screen")).to_have_attribute("aria-pressed", "true")


def test_a_question_from_the_audience_is_answered_and_labelled_unscripted(browsers: Browsers):
    page = play(browsers.open())
    page.keyboard.press("q")
    field = page.get_by_label("The stage shows it as unscripted.")
    expect(field).to_be_focused()
    expect(page.get_by_label("It goes on from the answer on stage")).to_be_hidden()
    page.keyboard.type("b.p q?")
    assert not obstacles(page)
    take_screenshots(page, "stage-question")
    page.keyboard.press("Escape")
    expect(field).to_be_hidden()
    expect(page.locator("#place")).to_have_text("1 / 4")
    page.keyboard.press("PageDown")
    expect(page.locator("#answer")).to_contain_text("dog")
    expect(page.locator("#figures")).to_contain_text("tokens")
    page.keyboard.press("q")
    expect(page.get_by_label("It goes on from the answer on stage")).to_be_checked()
    page.keyboard.type("What is in the background?")
    page.keyboard.press("Enter")
    expect(page.locator("#step-title")).to_have_text("Unscripted: a question from the audience")
    expect(page.locator("#prompt")).to_have_text("What is in the background?")
    expect(page.locator("#place")).to_have_text("unscripted")
    expect(page.locator("#figures")).to_contain_text("tokens in")
    expect(page.locator("#answer")).not_to_be_empty()
    expect(page.locator("#picture")).to_be_visible()
    take_screenshots(page, "stage-unscripted")
    page.set_viewport_size({"width": 390, "height": 844})
    buttons, clock = (page.locator(selector).bounding_box() for selector in (".stage footer nav", "#clock"))
    assert buttons
    assert clock
    assert clock["x"] >= buttons["x"] + buttons["width"], "the clock is not beside the buttons"
    page.keyboard.press("PageDown")
    expect(page.locator("#place")).to_have_text("2 / 4")
    page.keyboard.press("PageUp")
    page.keyboard.press("PageUp")
    expect(page.locator("#place")).to_have_text("1 / 4")


def test_the_notes_window_asks_a_question_from_the_audience(page: Page):
    play(page)
    with page.expect_popup() as opened:
        page.keyboard.press("n")
    notes = opened.value
    expect(notes.get_by_role("button", name="Recorded answer")).to_be_disabled()
    notes.keyboard.press("q")
    notes.keyboard.type("What is in this image?")
    notes.keyboard.press("Enter")
    expect(page.locator("#step-title")).to_have_text("Unscripted: a question from the audience")
    expect(page.locator("#answer")).to_contain_text("dog")
    expect(notes.locator("#place")).to_have_text("unscripted")
    expect(notes.locator("#state")).to_have_text("answered")


def test_a_rehearsal_shows_every_result_and_is_recorded(page: Page):
    page.goto("/present")
    page.get_by_role("link", name="Rehearse A first look").click()
    page.wait_for_load_state()
    page.get_by_role("button", name="Rehearse").click()
    expect(page.locator("#said")).to_contain_text("The answers are recorded.")
    expect(page.locator("#said")).to_contain_text("Rehearsed with this model on")
    rows = page.locator("#steps > li")
    expect(rows).to_have_count(4)
    for index, word in enumerate(("dog", "four", "STOP", "dog")):
        expect(rows.nth(index).locator(".verdict")).to_have_text("As expected")
        expect(rows.nth(index).locator(".answer")).to_contain_text(word)
        expect(rows.nth(index).locator(".figures")).to_contain_text("first token")
    page.get_by_role("link", name="To the demo").click()
    expect(page.locator("#rehearsed")).to_contain_text("Rehearsed with this model on")
    page.keyboard.press("PageDown")
    expect(page.locator("#rehearsed")).to_be_hidden()  # once it has begun, that is no matter of the audience


def test_a_stopped_rehearsal_records_nothing(slow_page: Page, slow_server: Program):
    said = rehearse(slow_page, "chance-and-limits")
    expect(slow_page.locator("#steps > li").first).to_have_attribute("data-state", "busy")
    expect(said).to_contain_text("Step 1 of 5")
    slow_page.keyboard.press("Escape")
    expect(said).to_have_text("Stopped. Nothing was recorded; an earlier recording stays.")
    wait_until(lambda: slow_server.health()["running"] == 0, "the slot is free")
    assert not (slow_server.home / "data" / "recordings" / "chance-and-limits.json").exists()
    expect(slow_page.get_by_role("button", name="Rehearse")).to_be_focused()


def test_a_scenario_for_a_larger_model_shows_a_warning(page: Page):
    page.goto("/present")
    card = page.locator(".card", has_text="Documents, charts, photos")
    expect(card).to_contain_text("Made for a larger model")
    expect(card).to_contain_text("for Llama 3.2 90B Vision")
    expect(page.locator(".card", has_text="A first look")).not_to_contain_text("larger model")
    card.get_by_role("link", name="Documents, charts, photos", exact=True).click()
    expect(page.locator("#backstage")).to_contain_text("Made for a larger model")


@pytest.mark.parametrize("viewport", [{"width": 390, "height": 844}, {"width": 1920, "height": 1080}], ids=["phone", "stage"])
def test_the_pages_of_present_mode_are_accessible(browsers: Browsers, branded: Program, viewport: dict[str, int]):
    browsers.expect_complaint("net::ERR_FAILED|status of 404")
    page = browsers.open(branded, viewport)
    page.goto("/present")
    found = obstacles(page)
    play(page)
    found += obstacles(page)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#answer")).to_contain_text("dog")
    found += obstacles(page)
    expect(rehearse(page)).to_contain_text("recorded")
    found += obstacles(page)
    page.route("**/steps/**", lambda route: route.abort())
    for name, words in (("first-look", "#recorded"), ("large-model", "#trouble")):
        page.goto(f"/present/{name}")
        expect(page.locator("body")).to_have_attribute("data-held", "all")
        page.locator("#next").click()
        expect(page.locator(words)).to_be_visible()
        expect(page.locator("body")).to_have_attribute("data-phase", "done")
        found += obstacles(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto("/present/first-look/notes")
    found += obstacles(page)
    page.goto("/present/nothing")
    found += obstacles(page)
    assert not found, "\n".join(found)
