"""The editor of a question: its text and its picture, with mouse, keyboard and on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.browser.chats import CAPITAL, DOG
from tests.support.paths import EXAMPLE_IMAGES

pytestmark = pytest.mark.timeout(300)

STOP = EXAMPLE_IMAGES / "stop.png"


def open_editor(page: Page) -> Locator:
    """Opens the editor of the last question."""
    pages.user_rows(page).last.get_by_role("button", name="Edit", exact=True).click()
    editor = page.get_by_role("form", name="Edit the question")
    expect(editor.get_by_role("textbox")).to_be_focused()
    return editor


def save(page: Page, editor: Locator) -> str:
    """Saves the edit and returns the new answer."""
    with pages.settled(page):
        editor.get_by_role("button", name="Save and ask").click()
    expect(editor).to_have_count(0)
    pages.wait_answered(page)
    return pages.last_bot_text(page)


def choose_file(page: Page, button: Locator, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files(path)


@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_a_question_with_a_picture_is_edited_and_its_picture_kept_swapped_and_removed(browsers: Browsers, device: str):
    page = browsers.open(viewport=PHONE) if device == "phone" else browsers.open()
    pages.open_chat(page, "/?temperature=0")
    pages.ask_and_wait(page, "What is in this picture?", DOG)

    editor = open_editor(page)
    expect(pages.user_rows(page)).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    row, column = editor.bounding_box(), page.locator("#chat-history").bounding_box()
    assert row is not None
    assert column is not None
    assert row["width"] > column["width"] * 0.9
    pages.take_screenshot(page, f"question-editor-{device}")
    editor.get_by_role("textbox").fill("What is this?")
    save(page, editor)
    expect(pages.user_rows(page).locator(".typed-text")).to_have_text("What is this?")
    assert "saw dog.png" in pages.answer_metadata(page)
    assert pages.version_number(page) == "2 / 2"

    editor = open_editor(page)
    choose_file(page, editor.get_by_role("button", name="Other picture"), STOP)
    expect(editor.get_by_role("img", name="stop.png")).to_be_visible()
    editor.get_by_role("textbox").fill("What does the text say?")
    assert "STOP" in save(page, editor)
    assert "saw stop.png" in pages.answer_metadata(page)

    editor = open_editor(page)
    editor.get_by_role("button", name="Remove picture").click()
    expect(editor.locator("img")).to_be_hidden()
    editor.get_by_role("textbox").fill(CAPITAL)
    assert "Rome" in save(page, editor)
    assert "no image" in pages.answer_metadata(page)
    assert pages.user_rows(page).locator("img").count() == 0


def test_keys_send_break_lines_and_cancel(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, "Hello <b>you</b>")
    editor = open_editor(page)
    field = editor.get_by_role("textbox")
    expect(field).to_have_value("Hello <b>you</b>")
    field.press_sequentially(" and")
    field.press("Shift+Enter")
    field.press_sequentially("me")
    expect(field).to_have_value("Hello <b>you</b> and\nme")
    field.press("Escape")
    expect(editor).to_have_count(0)
    expect(pages.user_rows(page)).to_have_text(["Hello <b>you</b>"])
    expect(pages.user_rows(page).get_by_role("button", name="Edit", exact=True)).to_be_focused()

    editor = open_editor(page)
    editor.get_by_role("textbox").fill("Hello\nyou")
    with pages.settled(page):
        editor.get_by_role("textbox").press("Enter")
    expect(pages.user_rows(page).locator(".typed-text")).to_have_text("Hello\nyou")
    pages.wait_answered(page)
    expect(editor).to_have_count(0)


def test_a_refused_edit_stays_in_the_editor_with_a_sentence(page: Page, tmp_path: Path):
    pages.open_chat(page)
    pages.ask_and_wait(page, CAPITAL)
    editor = open_editor(page)
    note = editor.get_by_role("alert")
    editor.get_by_role("textbox").fill("  ")
    editor.get_by_role("button", name="Save and ask").click()
    expect(note).to_have_text("A question needs a few words or an image.")
    editor.get_by_role("textbox").fill("And this?")
    words = tmp_path / "words.png"
    words.write_text("no picture")
    choose_file(page, editor.get_by_role("button", name="Add a picture"), words)
    expect(editor.get_by_text("words.png (this browser cannot show it)")).to_be_visible()
    expect(editor.get_by_role("img")).to_have_count(0)
    editor.get_by_role("button", name="Save and ask").click()
    expect(note).to_contain_text("words.png")
    expect(editor.get_by_role("textbox")).to_have_value("And this?")
    editor.get_by_role("button", name="Remove picture").click()
    pages.set_seed(page, "abc")
    editor.get_by_role("button", name="Save and ask").click()
    expect(note).to_contain_text("Seed must be a whole number")
    editor.get_by_role("button", name="Cancel").click()
    expect(pages.user_rows(page)).to_have_text([CAPITAL])


def test_a_pasted_picture_becomes_the_picture_of_the_edited_question(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, CAPITAL)
    editor = open_editor(page)
    pages.paste_file(editor.get_by_role("textbox"), DOG, text="a table from a letter")  # text with a picture of it
    expect(editor.get_by_role("img")).to_have_count(0)
    pages.paste_file(editor.get_by_role("textbox"), DOG, text="file:///home/ada/dog.png")  # from a file manager
    expect(editor.get_by_role("img", name="dog.png")).to_be_visible()
    expect(pages.attached(page)).to_have_count(0)
    save(page, editor)
    assert "saw dog.png" in pages.answer_metadata(page)


def test_an_edit_that_a_lost_server_swallows_stays_in_the_editor(browsers: Browsers):
    browsers.expect_complaint("net::ERR_FAILED|Connection errored out|Failed to fetch|AbortError")
    page = pages.open_chat(browsers.open())
    pages.ask_and_wait(page, CAPITAL)
    editor = open_editor(page)
    editor.get_by_role("textbox").fill("And of France?")
    for address in ("**/status?*", "**/gradio_api/**"):
        page.route(address, lambda route: route.abort())
    editor.get_by_role("button", name="Save and ask").click()
    expect(editor.get_by_role("alert")).to_have_text("The demo does not answer. Please save again when it is back.")
    expect(editor.get_by_role("textbox")).to_have_value("And of France?")


@pytest.mark.parametrize("event", ["Retry", "Continue", "a new question"])
def test_the_editor_keeps_its_text_and_picture_while_an_answer_is_written(slow_page: Page, dictation: Path, event: str):
    page = pages.open_chat(slow_page)
    dictation.write_text("Rome and Milan and Turin", encoding="utf-8")
    pages.set_slider(page, "max-tokens", 4 if event == "Continue" else 256)
    pages.ask_and_wait(page, CAPITAL)
    pages.set_slider(page, "max-tokens", 256)  # the answer that is held has all of its text
    editor = open_editor(page)
    editor.get_by_role("textbox").fill("And of France?")
    choose_file(page, editor.get_by_role("button", name="Add a picture"), DOG)
    dictation.with_name("pause").touch()
    if event == "a new question":
        pages.ask(page, "Are you sure?")
    else:
        pages.message_button(page, event).click()
    expect(pages.stop_button(page)).to_be_visible()
    expect(page.locator("#chat-history .edit-question")).to_have_count(0)
    expect(editor.get_by_role("textbox")).to_have_value("And of France?")
    editor.get_by_role("button", name="Save and ask").click()
    expect(editor.get_by_role("alert")).to_have_text("An answer is being written. Please save when it is complete, or stop it.")
    dictation.with_name("pause").unlink()
    pages.wait_answered(page)
    expect(editor.get_by_role("alert")).to_be_hidden()
    expect(editor.get_by_role("textbox")).to_have_value("And of France?")
    save(page, editor)
    expect(pages.user_rows(page).locator(".typed-text")).to_have_text("And of France?")
    assert "saw dog.png" in pages.answer_metadata(page)


def test_an_edit_without_a_change_closes_the_editor(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, CAPITAL)
    assert "Rome" in save(page, open_editor(page))
    assert pages.version_number(page) == "2 / 2"
