"""What a person does with conversations: versions, search, deleting and bringing back, files, and looking as the model does."""

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
from tests.support.browser.chat_page import EXAMPLE_IMAGES
from tests.support.program import Program, running

pytestmark = pytest.mark.timeout(600)

CAPITAL = "What is the capital of Italy?"
DOG = EXAMPLE_IMAGES / "dog.png"
STOP = EXAMPLE_IMAGES / "stop.png"


def forget(page: Page) -> None:
    with pages.settled(page):
        page.locator("#delete").click()


# --- versions --------------------------------------------------------------------------------------------------------------


def test_arrows_walk_between_answers_and_the_keyboard_stays_with_them(page: Page):
    pages.open_chat(page)
    pages.set_greedy(page, True)
    first = pages.ask_and_wait(page, CAPITAL)
    pages.set_greedy(page, False)
    pages.set_slider(page, "temperature", 2)
    pages.set_slider(page, "top-p", 1)
    second = pages.retry(page)
    assert pages.place(page) == "2 / 2"
    pages.walk(page, "Previous", "answer")
    assert (pages.last_bot_text(page), pages.place(page)) == (first, "1 / 2")
    # The only arrow that leads anywhere now has the focus.
    focused = page.locator("#chat-history button.step:focus")
    expect(focused).to_have_accessible_name("Next version of the answer")
    with pages.settled(page):
        page.keyboard.press("Enter")
    assert (pages.last_bot_text(page), pages.place(page)) == (second, "2 / 2")
    with pages.settled(page):
        page.reload()
    assert (pages.last_bot_text(page), pages.place(page)) == (second, "2 / 2")


def test_an_edit_keeps_the_old_question_with_all_that_came_after(page: Page):
    pages.open_chat(page)
    pages.set_greedy(page, True)
    pages.ask_and_wait(page, "What is 3 + 4?")
    pages.ask_and_wait(page, "Tell me a story")
    page.locator("#chat-history").get_by_role("button", name="Edit", exact=True).first.click()
    page.locator("#chat-history textarea").fill(CAPITAL)
    with pages.settled(page):
        page.locator("#chat-history").get_by_role("button", name="Submit").click()
    pages.wait_answered(page)
    expect(pages.user_rows(page)).to_have_count(1)
    pages.walk(page, "Previous", "question")
    expect(pages.user_rows(page)).to_have_count(2)
    expect(pages.user_rows(page).first).to_contain_text("3 + 4")
    pages.shot(page, "versions-desktop")
    pages.walk(page, "Next", "question")
    expect(pages.user_rows(page)).to_have_text([CAPITAL])


# --- the list --------------------------------------------------------------------------------------------------------------


def test_a_conversation_is_found_deleted_and_brought_back(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, CAPITAL)
    with pages.settled(page):
        page.locator("#new-chat").click()
    pages.ask_and_wait(page, "What is 3 + 4?")
    pages.search(page, "ITALY rome")
    expect(pages.listed(page)).to_have_text([CAPITAL])
    expect(page.locator("#found")).to_contain_text("1 conversation has “ITALY rome”")
    with pages.settled(page):
        pages.listed(page).click()
    expect(pages.user_rows(page)).to_have_text([CAPITAL])
    pages.open_panel(page, "This conversation")
    forget(page)
    expect(pages.user_rows(page)).to_have_count(0)
    expect(pages.listed(page)).to_have_count(0)
    assert "c=" not in page.url
    expect(page.locator("#deleted-title")).to_contain_text(f"Deleted “{CAPITAL}”")
    pages.shot(page, "deleted-desktop")
    with pages.settled(page):
        page.locator("#bring-back").click()
    expect(pages.user_rows(page)).to_have_text([CAPITAL])
    expect(page.locator("#bring-back")).to_be_hidden()
    pages.search(page, "")
    expect(pages.listed(page)).to_have_count(2)


def test_what_is_gone_for_good_is_said_and_not_offered_again(page: Page, server: Program):
    pages.open_chat(page)
    pages.ask_and_wait(page, CAPITAL)
    pages.open_panel(page, "This conversation")
    id = pages.conversation_id(page)
    forget(page)
    expect(page.locator("#deleted")).to_be_visible()
    with closing(sqlite3.connect(server.home / "data" / "conversations.sqlite3")) as database, database:
        database.execute("DELETE FROM messages WHERE conversation_id = ?", (id,))
        database.execute("DELETE FROM conversations WHERE id = ?", (id,))
    with pages.settled(page):
        page.locator("#bring-back").click()
    expect(pages.notice(page)).to_contain_text("gone for good")
    expect(page.locator("#deleted")).to_be_hidden()
    pages.shot(page, "gone-for-good-desktop")


def test_a_conversation_leaves_as_three_kinds_of_file_and_comes_back(browsers: Browsers, page: Page, tmp_path: Path):
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is in this image?", DOG)
    pages.retry(page)
    pages.open_panel(page, "This conversation")
    for kind in ("html", "md", "json"):
        with page.expect_download() as download:
            page.locator(f"#export-{kind}").click()
        assert download.value.suggested_filename == f"What-is-in-this-image.{kind}"
        download.value.save_as(tmp_path / f"talk.{kind}")
    assert "dog.png" in (tmp_path / "talk.md").read_text(encoding="utf-8")
    assert len(json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))["messages"]) == 3

    alone = page.context.new_page()
    alone.set_content((tmp_path / "talk.html").read_text(encoding="utf-8"))
    assert alone.locator("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 640
    pages.shot(alone, "export-desktop")
    alone.close()

    stranger = pages.open_chat(browsers.open())
    (tmp_path / "broken.json").write_text("{}")
    for file in ("broken.json", "talk.json"):
        with stranger.expect_file_chooser() as chooser:
            stranger.locator("#import").click()
        chooser.value.set_files(tmp_path / file)
        if file == "broken.json":
            expect(pages.notice(stranger)).to_contain_text("This file cannot be imported: format: Field required")
    expect(pages.user_rows(stranger)).to_contain_text("What is in this image?")
    expect(stranger.locator("#chat-history .facts")).to_contain_text("imported")
    assert pages.place(stranger) == "2 / 2"
    expect(pages.listed(stranger)).to_have_count(1)


# --- what the model sees ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_an_answer_shows_the_tiles_it_was_made_from(browsers: Browsers, page: Page, device: str):
    if device == "phone":
        page = browsers.open(viewport=PHONE)
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is in this image?", DOG)
    page.locator("#chat-history .saw").click()
    closeup = page.get_by_role("dialog", name="What the model sees")
    expect(closeup.get_by_role("img")).to_have_count(4)
    expect(closeup).to_contain_text("dog.png, 640 × 480 px")
    expect(closeup).to_contain_text("4 tiles of")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    pages.shot(page, f"closeup-{device}")
    page.keyboard.press("Escape")
    expect(closeup).to_have_count(0)


def test_a_second_image_lets_one_choose_what_the_model_sees(page: Page):
    pages.open_chat(page)
    pages.open_panel(page, "What the model sees")
    pages.ask_and_wait(page, "What is in this image?", DOG)
    sight = page.locator("#sight")
    expect(sight).to_contain_text("dog.png")
    pages.attach(page, STOP)
    choice = page.get_by_role("group", name="The model looks at one image at a time.")
    expect(choice.get_by_role("radio")).to_have_count(3)
    expect(sight).to_contain_text("stop.png, 640 × 480 px")
    choice.get_by_label("Stay with dog.png").check()
    expect(sight).to_contain_text("dog.png")
    choice.get_by_label("Both side by side").check()
    expect(sight).to_contain_text("dog.png + stop.png")
    pages.shot(page, "which-image-desktop")
    choice.get_by_label("Stay with dog.png").check()
    pages.ask_and_wait(page, "What is in this image?")
    assert "saw dog.png" in pages.facts(page)
    assert "set aside: stop.png" in pages.facts(page)
    expect(choice).to_be_hidden()


# --- figures ---------------------------------------------------------------------------------------------------------------


def test_figures_run_along_while_an_answer_is_written(slow_page: Page):
    pages.open_chat(slow_page)
    pages.ask_endlessly(slow_page)
    live = slow_page.locator("#chat-history .live")
    expect(live).to_contain_text("tokens/s")
    expect(live).to_contain_text(re.compile(r"read \d+ tokens in"))
    expect(live).to_contain_text("of 2048")
    pages.stop_button(slow_page).click()
    pages.wait_answered(slow_page)
    expect(live).to_have_count(0)


def test_a_page_that_lost_its_server_does_not_go_on_saying_that_it_is_ready(browsers: Browsers, tmp_path: Path):
    browsers.expect_complaint("ERR_|Failed to|Connection|fetch|AbortError")
    with running(tmp_path / "server", tracebacks=True) as program:  # an open page is cut off
        program.wait_ready()
        page = pages.open_chat(browsers.open(program))
        expect(page.locator("#status")).to_contain_text("Ready")
    expect(page.get_by_text("No connection to the demo")).to_be_visible()
    expect(page.locator("#status")).to_be_hidden()
