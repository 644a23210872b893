"""Kiosk mode: no settings, a limit of questions, and no data of a visitor after the visit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, expect

from mllama_demo.config.passwords import hash_password
from tests.support.accounts import PASSWORD
from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.paths import EXAMPLE_IMAGES, ROOT
from tests.support.program import Program, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)
IDLE_S = 16
# Not an example image: copies of these in Gradio's cache are kept.
OWN_IMAGE = ROOT / "mllama_demo" / "present" / "scenarios" / "images" / "coffee.jpg"
TABLES = ("conversations", "messages", "images", "shares", "feedback", "drafts")


@pytest.fixture(scope="module")
def kiosk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A kiosk with sign-in and a limit of two questions."""
    options = ("--kiosk", "true", "--kiosk-idle-s", str(IDLE_S), "--kiosk-messages-per-hour", "2")
    users = ("--users", f"hall:{hash_password(PASSWORD)}")
    with running(tmp_path_factory.mktemp("kiosk"), *options, *users) as program:
        program.wait_ready()
        yield program


def sign_in(page: Page) -> Page:
    """Opens the kiosk."""
    page.goto("/login")
    page.get_by_label("Name").fill("hall")
    page.get_by_label("Password").fill(PASSWORD)
    with pages.settled(page):
        page.get_by_role("button", name="Sign in").click()
    expect(page.locator("body.kiosk")).to_have_count(1)
    return page


def rows(kiosk: Program) -> dict[str, int]:
    with closing(sqlite3.connect(kiosk.home / "data" / "conversations.sqlite3")) as database:
        return {table: database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in TABLES}


def image_files(kiosk: Program) -> set[str]:
    """Previews, attachments, and Gradio's copies of these and of uploads."""
    folders = [kiosk.home / "gradio", *kiosk.home.glob("mllama-demo-*")]
    return {str(path) for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_a_kiosk_limits_questions_and_deletes_everything_of_a_visitor(browsers: Browsers, kiosk: Program):
    browsers.expect_complaint("AbortError|Connection errored out")  # the page is left while something is still asked for
    page = sign_in(browsers.open(kiosk))
    before = image_files(kiosk)
    assert set(rows(kiosk).values()) == {0}
    pages.ask_and_wait(page, "What is in this image?", OWN_IMAGE)
    pages.retry(page)
    pages.textarea(page).fill("And now?")
    pages.submit(page)
    expect(pages.notice(page)).to_contain_text("You have asked 2 questions")
    pages.dismiss_notices(page)
    assert rows(kiosk)["messages"] == 3
    assert rows(kiosk)["images"] == 1
    assert len(image_files(kiosk) - before) > 1
    page.locator("#chat-history .image-seen").click()
    expect(page.locator("dialog[open]")).to_be_visible()

    expect(page.locator("#kiosk-countdown")).to_be_visible()
    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(page.locator("#kiosk-countdown")).to_contain_text("Everything here will be deleted in")
    page.mouse.move(200, 300)
    expect(page.locator("#kiosk-countdown")).to_be_hidden()
    assert pages.user_rows(page).count() == 1

    expect(pages.user_rows(page)).to_have_count(0)
    wait_until(lambda: set(rows(kiosk).values()) == {0}, f"no row is left: {rows(kiosk)}")
    wait_until(lambda: image_files(kiosk) == before, f"no file is left: {image_files(kiosk) - before}")
    expect(page.locator("#kiosk-countdown")).to_be_hidden()
    assert "c=" not in page.url
    page.reload()
    expect(pages.listed(page)).to_have_count(0)
    pages.ask_and_wait(page, "What is 3 + 4?")  # the next visitor's first question


def test_a_kiosk_deletes_files_that_were_attached_but_never_sent(browsers: Browsers, kiosk: Program):
    browsers.expect_complaint("AbortError|Connection errored out")
    page = sign_in(browsers.open(kiosk))
    before = image_files(kiosk)
    with pages.settled(page):
        pages.attach(page, OWN_IMAGE)
    assert image_files(kiosk) > before
    page.close()
    wait_until(lambda: image_files(kiosk) == before, "no file is left")


def test_a_reload_or_a_new_chat_does_not_reset_the_question_limit_of_a_kiosk(browsers: Browsers, kiosk: Program):
    browsers.expect_complaint("AbortError|Connection errored out")
    page = sign_in(browsers.open(kiosk))
    pages.ask_and_wait(page, "What is 3 + 4?")
    with pages.settled(page):
        page.locator("#links .new-chat-button").click()
    expect(pages.user_rows(page)).to_have_count(0)
    pages.ask_and_wait(page, "What is 1 + 1?")
    with pages.settled(page):
        page.reload()
    pages.textarea(page).fill("And 2 + 2?")
    pages.submit(page)
    expect(pages.notice(page)).to_contain_text("You have asked 2 questions")
    other = sign_in(browsers.open(kiosk))  # the same user on another screen
    pages.ask_and_wait(other, "What is 3 + 4?")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_kiosk_shows_the_chat_without_settings_and_links(browsers: Browsers, kiosk: Program, scheme: str):
    browsers.expect_complaint("AbortError|Connection errored out")
    page = sign_in(browsers.open(kiosk, PHONE, color_scheme=scheme))
    found = obstacles(page)
    pages.ask_and_wait(page, "What is in this image?", EXAMPLE_IMAGES / "dog.png")
    for part in ("#settings", "#sign-out", "#share", "#conversations", "#import", "#note-row", ".source-address"):
        expect(page.locator(part)).to_be_hidden()
    for name in ("Like", "Dislike"):
        expect(page.locator(f'#chat-history button[title="{name}"]')).not_to_have_count(0)
        expect(page.locator(f'#chat-history button[title="{name}"]').first).to_be_hidden()
    for name in ("Sign out", "Explore sampling", "Present"):
        expect(page.get_by_role("link", name=name)).to_have_count(0)
    found += obstacles(page)
    expect(page.locator("#kiosk-countdown")).to_be_visible()
    found += obstacles(page)
    assert not found, "\n".join(found)


def test_a_kiosk_has_no_rehearsal(kiosk: Program):
    with requests.Session() as session:
        session.post(f"{kiosk.url}/login", data={"name": "hall", "password": PASSWORD})
        assert "Rehearse" not in session.get(f"{kiosk.url}/present").text
        answer = session.post(f"{kiosk.url}/present/first-look/rehearsal")
        assert (answer.status_code, "This is a kiosk" in answer.text) == (403, True)


def test_kiosk_data_left_by_a_killed_program_is_deleted_at_the_next_start(browsers: Browsers, tmp_path: Path):
    browsers.expect_complaint("net::ERR_|Connection errored out|AbortError|Failed to fetch|network error|503")
    with running(tmp_path, "--kiosk", "true", script=pages.SLOW_DEMO) as program:
        program.wait_ready()
        page = pages.open_chat(browsers.open(program))
        pages.ask_and_wait(page, "What is in this image?", OWN_IMAGE)
        pages.ask(page, "Tell me a story")
        wait_until(lambda: rows(program)["drafts"] == 1, "the second answer is under way")
        program.kill()
        assert (rows(program)["messages"], rows(program)["drafts"]) == (3, 1)
    with running(tmp_path, "--kiosk", "true") as program:
        program.wait_ready()
        assert set(rows(program).values()) == {0}
