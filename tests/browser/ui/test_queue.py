"""More questions than slots: the page says where in line one stands, and a full line loses nobody's words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import Browsers
from tests.support.browser.chat_page import SLOW_DEMO
from tests.support.program import Program, running, wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def one_slot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A demo with one slot that is slow to be free again, and room for one more to wait."""
    options = ("--batch-size", "1", "--max-waiting", "1")
    with running(tmp_path_factory.mktemp("one-slot"), *options, script=SLOW_DEMO) as program:
        program.wait_ready()
        yield program


def test_one_answers_one_waits_one_is_asked_to_come_back(browsers: Browsers, one_slot: Program):
    first = pages.open_chat(browsers.open(one_slot))
    second, third = (pages.open_chat(first.context.new_page()) for _ in range(2))
    expect(third.locator("#status")).to_contain_text("Ready · answers at once · 0 of 1 slots busy, 0 waiting")
    # Only after an answer is there anything to estimate the wait from.
    pages.ask_and_wait(first, "What is the capital of Italy?")
    pages.textarea(third).fill("What is 3 + 4?")
    pages.ask_endlessly(first)

    pages.ask(second, "What is the capital of Italy?")
    expect(pages.bot_rows(second)).to_contain_text("Next in line")
    pages.submit(third)
    expect(pages.notice(third)).to_contain_text("busy")
    expect(pages.textarea(third)).to_have_value("What is 3 + 4?")
    expect(pages.user_rows(third)).to_have_count(0)
    expect(pages.stop_button(third)).to_be_hidden()
    expect(second.locator("#status")).to_contain_text("1 of 1 slots busy, 1 waiting")
    expect(second.locator("#status")).to_contain_text("a question sent now starts in about")
    expect(pages.stop_button(second)).to_be_visible()
    pages.shot(second, "waiting-desktop")

    pages.stop_button(first).click()
    pages.wait_answered(first)
    assert "stopped by hand" in pages.facts(first)
    pages.shot(third, "busy-desktop")
    pages.wait_answered(second)
    assert "Rome" in pages.last_bot_text(second)
    pages.submit(third)
    expect(pages.user_rows(third)).to_have_count(1)
    pages.wait_answered(third)
    wait_until(lambda: one_slot.health()["running"] == 0, "the slot is free again", 60)


def test_who_goes_back_and_forth_between_two_questions_follows_the_one_that_is_shown(browsers: Browsers, one_slot: Program):
    page = pages.open_chat(browsers.open(one_slot))
    pages.ask_endlessly(page)
    page.locator("#new-chat").click()
    expect(pages.user_rows(page)).to_have_count(0)
    pages.ask(page, "What is the capital of Italy?")
    expect(pages.bot_rows(page)).to_contain_text("Next in line")
    written, waiting = (pages.listed(page).filter(has_text=title) for title in (pages.ENDLESS_QUESTION, "capital of Italy"))
    # A page hears of a question that waits once a second: it has not let go of the one when it shows the other.
    for shown, text in ((written, "tokens/s"), (waiting, "Next in line"), (written, "tokens/s"), (waiting, "Next in line")):
        shown.click()
        expect(pages.user_rows(page)).to_have_count(1)
        expect(pages.bot_rows(page)).to_contain_text(text)
    written.click()
    pages.wait_writing(page)
    pages.watch_growth(page)
    pages.wait_growth(page, 3)
    pages.stop_button(page).click()
    pages.wait_answered(page)
    waiting.click()
    expect(pages.user_rows(page)).to_contain_text("capital of Italy")
    pages.wait_answered(page)
    assert "Rome" in pages.last_bot_text(page)


def test_a_step_of_a_presentation_that_was_left_while_it_waited_is_in_no_line(browsers: Browsers, one_slot: Program):
    first = pages.open_chat(browsers.open(one_slot))
    stage = first.context.new_page()
    stage.goto("/present/first-look")
    pages.ask_endlessly(first)
    stage.keyboard.press("PageDown")
    expect(stage.locator("#figures")).to_have_text("number 1 in line")
    stage.keyboard.press("PageDown")
    expect(stage.locator("#place")).to_have_text("2 / 4")
    stage.keyboard.press("PageUp")
    expect(stage.locator("#place")).to_have_text("1 / 4")
    expect(stage.locator("#figures")).to_be_empty()
    pages.stop_button(first).click()
    pages.wait_answered(first)


def test_a_waiting_question_can_be_stopped(browsers: Browsers, one_slot: Program):
    first = pages.open_chat(browsers.open(one_slot))
    second = pages.open_chat(first.context.new_page())
    pages.ask_endlessly(first)
    pages.ask(second, "What is the capital of Italy?")
    expect(pages.bot_rows(second)).to_contain_text("Next in line")
    pages.stop_button(second).click()
    pages.wait_answered(second)
    assert "stopped by hand" in pages.facts(second)
    wait_until(lambda: one_slot.health()["waiting"] == 0, "nobody waits", 60)
    pages.stop_button(first).click()
    pages.wait_answered(first)
