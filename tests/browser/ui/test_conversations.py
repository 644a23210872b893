"""Managing conversations: versions, search, delete and restore, export and import, and the tiles that the model sees."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.paths import EXAMPLE_IMAGES
from tests.support.program import Program, running

pytestmark = pytest.mark.timeout(600)

CAPITAL = "What is the capital of Italy?"
DOG = EXAMPLE_IMAGES / "dog.png"
STOP = EXAMPLE_IMAGES / "stop.png"


# --- versions --------------------------------------------------------------------------------------------------------------


def test_arrows_select_versions_and_keep_the_keyboard_focus(page: Page):
    pages.open_chat(page)
    pages.set_greedy(page, True)
    first = pages.ask_and_wait(page, CAPITAL)
    pages.set_greedy(page, False)
    pages.set_slider(page, "temperature", 2)
    pages.set_slider(page, "top-p", 1)
    second = pages.retry(page)
    assert pages.version_number(page) == "2 / 2"
    pages.select_version(page, "Previous", "answer")
    assert (pages.last_bot_text(page), pages.version_number(page)) == (first, "1 / 2")
    # The only arrow that leads anywhere now has the focus.
    focused = page.locator("#chat-history button.step:focus")
    expect(focused).to_have_accessible_name("Next version of the answer")
    with pages.settled(page):
        page.keyboard.press("Enter")
    assert (pages.last_bot_text(page), pages.version_number(page)) == (second, "2 / 2")
    with pages.settled(page):
        page.reload()
    assert (pages.last_bot_text(page), pages.version_number(page)) == (second, "2 / 2")


def test_an_edit_keeps_the_old_question_and_its_answers_as_a_version(page: Page):
    pages.open_chat(page)
    pages.set_greedy(page, True)
    pages.ask_and_wait(page, "What is 3 + 4?")
    pages.ask_and_wait(page, "Tell me a story")
    pages.edit(page, CAPITAL)
    pages.wait_answered(page)
    expect(pages.user_rows(page)).to_have_count(1)
    pages.select_version(page, "Previous", "question")
    expect(pages.user_rows(page)).to_have_count(2)
    expect(pages.user_rows(page).first).to_contain_text("3 + 4")
    pages.take_screenshot(page, "versions-desktop")
    pages.select_version(page, "Next", "question")
    expect(pages.user_rows(page)).to_have_text([CAPITAL])


# --- the list --------------------------------------------------------------------------------------------------------------


def test_a_conversation_is_found_deleted_and_restored(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, CAPITAL)
    with pages.settled(page):
        page.locator("#new-chat").click()
    pages.ask_and_wait(page, "What is 3 + 4?")
    pages.search(page, "ITALY rome")
    expect(pages.listed(page)).to_have_text([CAPITAL])
    expect(page.locator("#search-result")).to_contain_text("1 conversation has “ITALY rome”")
    with pages.settled(page):
        pages.listed(page).click()
    expect(pages.user_rows(page)).to_have_text([CAPITAL])
    pages.choose_row_action(page, "Delete")
    expect(pages.user_rows(page)).to_have_count(0)
    expect(pages.listed(page)).to_have_count(0)
    assert "c=" not in page.url
    expect(page.locator("#deleted-title")).to_contain_text(f"Deleted “{CAPITAL}”")
    pages.take_screenshot(page, "deleted-desktop")
    with pages.settled(page):
        page.locator("#restore").click()
    expect(pages.user_rows(page)).to_have_text([CAPITAL])
    expect(page.locator("#restore")).to_be_hidden()
    pages.search(page, "")
    expect(pages.listed(page)).to_have_count(2)


def test_a_purged_conversation_cannot_be_restored_and_is_not_offered_again(page: Page, server: Program):
    pages.open_chat(page)
    pages.ask_and_wait(page, CAPITAL)
    id = pages.conversation_id(page)
    pages.choose_row_action(page, "Delete")
    expect(page.locator("#deleted")).to_be_visible()
    with closing(sqlite3.connect(server.home / "data" / "conversations.sqlite3")) as database, database:
        database.execute("DELETE FROM messages WHERE conversation_id = ?", (id,))
        database.execute("DELETE FROM conversations WHERE id = ?", (id,))
    with pages.settled(page):
        page.locator("#restore").click()
    expect(pages.notice(page)).to_contain_text("gone for good")
    assert pages.covered(page, "#links :is(a, button), .toggle-button") == []
    expect(page.locator("#deleted")).to_be_hidden()
    pages.take_screenshot(page, "gone-for-good-desktop")


def test_a_conversation_is_exported_in_three_formats_and_imported_again(browsers: Browsers, page: Page, tmp_path: Path):
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is in this image?", DOG)
    pages.retry(page)
    for kind, name in (("html", "HTML"), ("md", "Markdown"), ("json", "JSON")):
        with page.expect_download() as download:
            pages.choose_row_action(page, f"Export as {name}")
        assert download.value.suggested_filename == f"What-is-in-this-image.{kind}"
        download.value.save_as(tmp_path / f"talk.{kind}")
    assert "dog.png" in (tmp_path / "talk.md").read_text(encoding="utf-8")
    assert len(json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))["messages"]) == 3

    alone = page.context.new_page()
    alone.set_content((tmp_path / "talk.html").read_text(encoding="utf-8"))
    assert alone.locator("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 640
    pages.take_screenshot(alone, "export-desktop")
    alone.close()

    other = pages.open_chat(browsers.open())
    (tmp_path / "broken.json").write_text("{}")
    for file in ("broken.json", "talk.json"):
        with other.expect_file_chooser() as chooser:
            other.locator("#import").click()
        chooser.value.set_files(tmp_path / file)
        if file == "broken.json":
            expect(pages.notice(other)).to_contain_text("This file cannot be imported: format: Field required")
    expect(pages.user_rows(other)).to_contain_text("What is in this image?")
    expect(other.locator("#chat-history .answer-metadata")).to_contain_text("imported")
    assert pages.version_number(other) == "2 / 2"
    expect(pages.listed(other)).to_have_count(1)


# --- what the model sees ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_an_answer_shows_the_tiles_it_was_made_from(browsers: Browsers, page: Page, device: str):
    if device == "phone":
        page = browsers.open(viewport=PHONE)
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is in this image?", DOG)
    pages.show_tiles(page)
    dialog = page.get_by_role("dialog", name="What the model sees")
    expect(dialog.get_by_role("img")).to_have_count(4)
    expect(dialog).to_contain_text("dog.png, 640 × 480 px")
    expect(dialog).to_contain_text("4 tiles of")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    pages.take_screenshot(page, f"tiles-enlarged-{device}")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_with_a_second_image_the_visitor_chooses_what_the_model_sees(page: Page):
    pages.open_chat(page)
    pages.open_panel(page, "What the model sees")
    pages.ask_and_wait(page, "What is in this image?", DOG)
    tiles = page.locator("#tile-view")
    expect(tiles).to_contain_text("dog.png")
    pages.attach(page, STOP)
    choice = page.get_by_role("group", name="The model looks at one image at a time.")
    expect(choice.get_by_role("radio")).to_have_count(3)
    expect(tiles).to_contain_text("stop.png, 640 × 480 px")
    choice.get_by_label("Stay with dog.png").check()
    expect(tiles).to_contain_text("dog.png")
    choice.get_by_label("Both side by side").check()
    expect(tiles).to_contain_text("dog.png + stop.png")
    pages.take_screenshot(page, "which-image-desktop")
    choice.get_by_label("Stay with dog.png").check()
    pages.ask_and_wait(page, "What is in this image?")
    assert "saw dog.png" in pages.answer_metadata(page)
    assert "set aside: stop.png" in pages.answer_metadata(page)
    expect(choice).to_be_hidden()


# --- figures ---------------------------------------------------------------------------------------------------------------


def test_token_counts_and_speed_are_updated_while_an_answer_is_written(slow_page: Page):
    pages.open_chat(slow_page)
    pages.ask_endlessly(slow_page)
    live = slow_page.locator("#chat-history .live-metadata")
    expect(live).to_contain_text("tokens/s")
    expect(live).to_contain_text(re.compile(r"read \d+ tokens in"))
    expect(live).to_contain_text("of 2048")
    pages.stop_button(slow_page).click()
    pages.wait_answered(slow_page)
    expect(live).to_have_count(0)


def test_the_status_line_says_that_the_connection_is_lost(browsers: Browsers, tmp_path: Path):
    browsers.expect_complaint("ERR_|Failed to|Connection|fetch|AbortError")
    with running(tmp_path / "server", tracebacks=True) as program:  # an open page is cut off
        program.wait_ready()
        page = pages.open_chat(browsers.open(program))
        expect(page.locator("#status")).to_contain_text("Ready")
    expect(page.get_by_text("No connection to the demo")).to_be_visible()
    expect(page.locator("#status")).to_be_hidden()
