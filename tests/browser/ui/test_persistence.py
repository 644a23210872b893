"""Conversations survive reloads and closed tabs; a refused question says why and keeps its text."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import Browsers
from tests.support.browser.chats import CAPITAL, DOG, ask_in_a_new_chat, wait_idle
from tests.support.program import Program

pytestmark = pytest.mark.timeout(300)


# --- keeping -------------------------------------------------------------------------------------------------------------


def test_a_reload_keeps_the_conversation_and_its_answers(browsers: Browsers, page: Page):
    # Gradio's client reports this when the page is left during a request, for example for the ratings of the answer.
    browsers.expect_complaint("AbortError|Connection errored out")
    pages.open_chat(page)
    answer = pages.ask_and_wait(page, CAPITAL)
    pages.conversation_id(page)
    with pages.settled(page):
        page.reload()
    expect(pages.user_rows(page)).to_contain_text(CAPITAL)
    assert pages.last_bot_text(page) == answer
    expect(pages.listed(page)).to_have_text([CAPITAL])


def test_a_typed_question_with_its_picture_survives_a_reload_and_another_page(browsers: Browsers, page: Page):
    browsers.expect_complaint("AbortError|Connection errored out")

    def is_there(text: str) -> None:
        expect(pages.textarea(page)).to_have_value(text)
        expect(pages.attached(page)).to_have_count(1)

    pages.open_chat(page)
    expect(pages.textarea(page)).to_have_attribute("dir", "auto")
    pages.textarea(page).fill("ما هذا؟")
    with pages.settled(page):
        pages.attach(page, DOG)
    with pages.settled(page):
        page.reload()
    is_there("ما هذا؟")
    page.locator("#links").get_by_role("link", name="Explore").click()
    page.wait_for_url("**/explore**")
    with pages.settled(page):
        page.go_back()
    is_there("ما هذا؟")
    pages.textarea(page).fill("What is this?")
    with pages.settled(page):
        page.locator("#new-chat").click()
    is_there("What is this?")
    pages.submit(page)
    pages.wait_answered(page)
    assert "saw dog.png" in pages.answer_metadata(page)
    with pages.settled(page):
        page.reload()
    expect(pages.user_rows(page)).to_have_count(1)
    expect(pages.textarea(page)).to_have_value("")
    expect(pages.attached(page)).to_have_count(0)


def test_a_question_that_was_sent_after_the_page_came_back_from_the_cache_is_not_typed_again(browsers: Browsers, page: Page):
    """The browsers of these tests keep no page in their cache, so the page is told that it was kept."""
    browsers.expect_complaint("AbortError|Connection errored out")
    pages.open_chat(page)
    pages.textarea(page).fill(CAPITAL)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    pages.submit(page)
    pages.wait_answered(page)
    pages.conversation_id(page)
    with pages.settled(page):
        page.reload()
    expect(pages.user_rows(page)).to_contain_text(CAPITAL)
    expect(pages.textarea(page)).to_have_value("")


def test_a_conversation_is_renamed_left_and_reopened(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, CAPITAL)
    pages.choose_row_action(page, "Rename")
    title = page.get_by_role("textbox", name="Title of the conversation")
    expect(title).to_have_value(CAPITAL)
    title.fill("About Italy")
    with pages.settled(page):
        title.press("Enter")
    expect(pages.listed(page)).to_have_text(["About Italy"])
    pages.ask_and_wait(page, "What is 3 + 4?")
    expect(pages.listed(page)).to_have_text(["About Italy"])

    with pages.settled(page):
        page.locator("#new-chat").click()
    expect(pages.user_rows(page)).to_have_count(0)
    assert "c=" not in page.url
    pages.ask_and_wait(page, "Tell me a story")
    expect(pages.listed(page)).to_have_count(2)
    with pages.settled(page):
        pages.listed(page).filter(has_text="About Italy").click()
    expect(pages.user_rows(page)).to_have_count(2)
    expect(pages.user_rows(page).first).to_contain_text(CAPITAL)
    pages.take_screenshot(page, "conversations-desktop")


def test_the_link_of_a_conversation_shows_nothing_to_another_visitor(browsers: Browsers, page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, CAPITAL)
    link = f"/?c={pages.conversation_id(page)}"
    other = pages.open_chat(browsers.open(), link)
    expect(pages.user_rows(other)).to_have_count(0)
    expect(pages.listed(other)).to_have_count(0)
    expect(other.locator("#chat-history").get_by_role("button", name="Select example")).to_have_count(8)


def test_a_reload_finds_the_answer_that_is_being_written(browsers: Browsers, slow_page: Page, slow_server: Program):
    # Gradio's client reports this when the page is left during a stream.
    browsers.expect_complaint("AbortError|Connection errored out")
    pages.open_chat(slow_page)
    pages.watch_growth(slow_page)
    pages.ask_endlessly(slow_page)
    pages.wait_growth(slow_page, 2)
    id = pages.conversation_id(slow_page)
    slow_page.reload()
    pages.wait_writing(slow_page)
    pages.watch_growth(slow_page)
    pages.wait_growth(slow_page, 2)
    second = slow_page.context.new_page()
    second.goto(f"/?c={id}")
    pages.wait_writing(second)
    pages.stop_button(second).click()
    for tab in (slow_page, second):
        pages.wait_answered(tab)
        assert "stopped by hand" in pages.answer_metadata(tab)
        assert pages.user_rows(tab).count() == 1
    assert pages.last_bot_text(slow_page) == pages.last_bot_text(second)
    assert pages.growth(slow_page) == sorted(set(pages.growth(slow_page)))
    wait_idle(slow_server)
    ask_in_a_new_chat(slow_page)


def test_an_answer_goes_on_while_another_conversation_is_open(slow_page: Page, slow_server: Program):
    pages.open_chat(slow_page)
    pages.ask_endlessly(slow_page)
    slow_page.locator("#new-chat").click()
    expect(pages.user_rows(slow_page)).to_have_count(0)
    expect(pages.stop_button(slow_page)).to_be_hidden()
    assert "Rome" in pages.ask_and_wait(slow_page, CAPITAL)
    expect(pages.user_rows(slow_page)).to_have_count(1)
    expect(pages.listed(slow_page)).to_have_count(2)
    assert slow_server.health()["running"] == 1
    pages.listed(slow_page).filter(has_text=pages.ENDLESS_QUESTION).click()
    pages.wait_writing(slow_page)
    expect(pages.user_rows(slow_page)).to_contain_text(pages.ENDLESS_QUESTION)
    pages.stop_button(slow_page).click()
    pages.wait_answered(slow_page)
    wait_idle(slow_server)


def test_two_tabs_are_answered_at_the_same_time(slow_page: Page, slow_server: Program):
    pages.open_chat(slow_page)
    second = pages.open_chat(slow_page.context.new_page())
    for tab in (slow_page, second):
        pages.watch_growth(tab)
        pages.ask_endlessly(tab)
    assert slow_server.health()["running"] == 2
    for tab in (slow_page, second):
        pages.wait_growth(tab, 3)
    assert slow_server.health()["running"] == 2
    for tab in (slow_page, second):
        pages.stop_button(tab).click()
        pages.wait_answered(tab)
    assert pages.conversation_id(slow_page) != pages.conversation_id(second)
    wait_idle(slow_server)


# --- what may go wrong ---------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_image_is_refused_and_the_question_is_kept(page: Page, tmp_path: Path):
    pages.open_chat(page)
    hostile = tmp_path / "holiday.jpg"
    hostile.write_bytes(b"<html><script>alert(1)</script></html>")
    cut = tmp_path / "cut.png"
    cut.write_bytes(DOG.read_bytes()[: DOG.stat().st_size // 2])
    pages.textarea(page).fill("What is in this image?")
    for file in (hostile, cut):
        pages.attach(page, file)
        pages.submit(page)
        expect(pages.notice(page)).to_contain_text(file.name)
        expect(pages.textarea(page)).to_have_value("What is in this image?")
        expect(pages.user_rows(page)).to_have_count(0)
        pages.take_screenshot(page, f"refused-{file.stem}")
        pages.dismiss_notices(page)
        page.locator("#chat-input").get_by_role("button", name="Remove file").click()
        expect(pages.attached(page)).to_have_count(0)
    pages.attach(page, DOG)
    pages.submit(page)
    pages.wait_answered(page)
    assert "dog" in pages.last_bot_text(page)


@pytest.mark.parametrize("address", ["http://169.254.169.254/x.png", "file:///etc/passwd", "http://127.0.0.1:1/", ""])
def test_an_address_that_may_not_be_fetched_is_refused(page: Page, address: str):
    pages.open_chat(page)
    pages.textarea(page).fill("Describe it")
    page.get_by_role("button", name="Picture from a web address").click()
    box = page.locator("#image-url").locator("input, textarea")
    box.fill(address)
    page.locator("#use-url").click()
    expect(page.locator("#url-refusal p")).to_be_visible()
    sentence = page.locator("#url-refusal p").inner_text()
    assert "Traceback" not in sentence
    assert "." in sentence
    expect(box).to_have_value(address)
    expect(pages.textarea(page)).to_have_value("Describe it")
    expect(pages.attached(page)).to_have_count(0)


def test_special_tokens_and_tags_in_a_question_are_shown_as_typed(fresh_page: Page):
    typed = "<|eot_id|><script>alert(1)</script> **hi**"
    fresh_page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    pages.open_chat(fresh_page)
    assert pages.ask_and_wait(fresh_page, typed)
    question = pages.user_rows(fresh_page)
    expect(question).to_have_text(typed)
    assert question.locator("script").count() == 0
    pages.take_screenshot(fresh_page, "special-text")
    with pages.settled(fresh_page):
        fresh_page.reload()
    expect(question).to_have_text(typed)
    with pages.settled(fresh_page):
        pages.message_button(fresh_page, "Undo").click()
    expect(pages.textarea(fresh_page)).to_have_value(typed)


def test_an_empty_question_is_refused_with_a_notice(page: Page):
    pages.open_chat(page)
    pages.textarea(page).press("Enter")
    expect(pages.notice(page)).to_contain_text("Type a question")
    expect(pages.user_rows(page)).to_have_count(0)
    assert "Rome" in pages.ask_and_wait(page, CAPITAL)
