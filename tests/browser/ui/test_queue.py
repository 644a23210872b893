"""More questions than slots: the page shows the place in the queue, and a question that a full queue refuses is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import Browsers
from tests.support.browser.chat_page import SLOW_DEMO
from tests.support.program import Program, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def one_slot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A slow demo with one slot and a queue for one question."""
    options = ("--batch-size", "1", "--max-waiting", "1")
    with running(tmp_path_factory.mktemp("one-slot"), *options, script=SLOW_DEMO) as program:
        program.wait_ready()
        yield program


def test_with_one_slot_a_second_question_waits_and_a_third_is_refused(browsers: Browsers, one_slot: Program):
    first = pages.open_chat(browsers.open(one_slot))
    second, third = (pages.open_chat(first.context.new_page()) for _ in range(2))
    expect(third.locator("#status")).to_contain_text("Ready · answers at once · 0 of 1 slots busy, 0 waiting")
    # The wait is estimated from earlier answers.
    pages.ask_and_wait(first, "What is the capital of Italy?")
    pages.textarea(third).fill("What is 3 + 4?")
    pages.ask_endlessly(first)

    pages.ask(second, "What is the capital of Italy?")
    expect(pages.bot_rows(second)).to_contain_text("Next in line")
    pages.submit(third)
    failure = third.locator("#chat-history .answer-failure")
    expect(failure).to_contain_text("busy")
    expect(pages.user_rows(third)).to_have_text(["What is 3 + 4?"])
    expect(pages.stop_button(third)).to_be_hidden()
    expect(second.locator("#status")).to_contain_text("1 of 1 slots busy, 1 waiting")
    expect(second.locator("#status")).to_contain_text("a question sent now starts in about")
    expect(pages.stop_button(second)).to_be_visible()
    pages.take_screenshot(second, "waiting-desktop")

    pages.stop_button(first).click()
    pages.wait_answered(first)
    assert "stopped by hand" in pages.answer_metadata(first)
    pages.take_screenshot(third, "busy-desktop")
    pages.wait_answered(second)
    assert "Rome" in pages.last_bot_text(second)
    failure.get_by_role("button", name="Try again").click()
    pages.wait_answered(third)
    expect(pages.user_rows(third)).to_have_count(1)
    wait_until(lambda: one_slot.health()["running"] == 0, "the slot is free again", 60)


def test_a_page_follows_the_question_that_it_shows(browsers: Browsers, one_slot: Program):
    page = pages.open_chat(browsers.open(one_slot))
    pages.ask_endlessly(page)
    page.locator("#new-chat").click()
    expect(pages.user_rows(page)).to_have_count(0)
    pages.ask(page, "What is the capital of Italy?")
    expect(pages.bot_rows(page)).to_contain_text("Next in line")
    written, waiting = (pages.listed(page).filter(has_text=title) for title in (pages.ENDLESS_QUESTION, "capital of Italy"))
    # A waiting page is updated once a second: its first event is still running when it opens the other conversation.
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


def test_a_presentation_step_that_was_left_is_removed_from_the_queue(browsers: Browsers, one_slot: Program):
    first = pages.open_chat(browsers.open(one_slot))
    stage = first.context.new_page()
    stage.goto("/present/first-look")
    pages.ask_endlessly(first)
    stage.keyboard.press("PageDown")
    waiting = stage.get_by_role("status").filter(has_text="Number 1 in line")
    expect(waiting).to_be_visible()
    stage.keyboard.press("PageDown")
    expect(stage.locator("#place")).to_have_text("2 / 4")
    stage.keyboard.press("PageUp")
    expect(stage.locator("#place")).to_have_text("1 / 4")
    expect(waiting).to_have_count(0)
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
    assert "stopped by hand" in pages.answer_metadata(second)
    wait_until(lambda: one_slot.health()["waiting"] == 0, "nobody waits", 60)
    pages.stop_button(first).click()
    pages.wait_answered(first)
