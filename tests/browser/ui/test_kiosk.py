"""Kiosk mode: no settings, a limit of questions, and no data of a visitor after the visit."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, ViewportSize, expect

from tests.support.accounts import PASSWORD, users
from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.paths import EXAMPLE_IMAGES, ROOT
from tests.support.program import Program, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)
IDLE_S = 16
STANDING: ViewportSize = {"width": 1080, "height": 1920}
TITLE = "Ask the picture: the harbour museum lets a model with eyes describe what hangs on its walls"
# Not an example image: copies of these in Gradio's cache are kept.
OWN_IMAGE = ROOT / "mllama_demo" / "present" / "scenarios" / "images" / "coffee.jpg"
TABLES = ("conversations", "messages", "images", "shares", "feedback", "drafts")


@pytest.fixture(scope="module")
def kiosk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The configuration for events, with sign-in, a limit of two questions, and a brand that is difficult to read."""
    options = ("--config", str(ROOT / "configs" / "event.yaml"), "--kiosk-idle-s", str(IDLE_S), "--kiosk-messages-per-hour", "2")
    brand = ("--title", TITLE, "--brand-color", "#facc15", "--brand-logo", str(EXAMPLE_IMAGES / "stop.png"))
    with running(tmp_path_factory.mktemp("kiosk"), *options, *brand, "--users", users("hall")) as program:
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
    # os.walk passes over a folder that the program deletes meanwhile.
    return {os.path.join(place, name) for folder in folders for place, _, names in os.walk(folder) for name in names}  # noqa: PTH118


@pytest.mark.long
def test_a_kiosk_limits_questions_and_deletes_everything_of_a_visitor(browsers: Browsers, kiosk: Program):
    browsers.expect_complaint("AbortError|Connection errored out")  # the page is left while something is still asked for
    page = sign_in(browsers.open(kiosk))
    expect(page.locator("#chat-history").get_by_role("button", name="Select example").last).to_be_in_viewport(ratio=1)
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
    pages.show_tiles(page)
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


def test_a_camera_that_was_left_open_is_closed_for_the_next_visitor(browsers: Browsers, kiosk: Program):
    browsers.expect_complaint("AbortError|Connection errored out")
    page = sign_in(browsers.open(kiosk))
    pages.open_camera(page)
    page.evaluate(f"() => {{ window.track = {pages.CAMERA_TRACK}; }}")
    expect(page.locator("#kiosk-countdown")).to_be_visible()
    expect(page.get_by_role("dialog", name="Take a photo")).to_be_hidden()
    page.wait_for_function("() => window.track.readyState === 'ended'")


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


def test_a_kiosk_shows_the_chat_without_settings_and_links(browsers: Browsers, kiosk: Program):
    browsers.expect_complaint("AbortError|Connection errored out")
    page = sign_in(browsers.open(kiosk, PHONE))
    found = obstacles(page)
    pages.take_screenshots(page, "kiosk-phone")
    title = page.get_by_role("heading", name=TITLE)
    assert title.evaluate("box => box.scrollHeight <= box.clientHeight + 1"), "the whole title is visible"
    pages.ask_and_wait(page, "What is in this image?", EXAMPLE_IMAGES / "dog.png")
    page.locator("#chat-history .image-container img").click()
    picture = page.get_by_role("dialog").get_by_role("img")
    assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 640, (
        "a kiosk shows it in full size too"
    )
    page.keyboard.press("Escape")
    for part in ("#settings", "#account", "#share", "#conversations", "#import", "#note-row", ".source-address"):
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


def test_a_kiosk_closes_explore_present_and_the_descriptions_of_the_api(browsers: Browsers, kiosk: Program):
    with requests.Session() as session:
        session.post(f"{kiosk.url}/login", data={"name": "hall", "password": PASSWORD})
        for path in ("/explore", "/explore/runs", "/present", "/present/first-look", "/laptop-model", "/openapi.json",
            "/gradio_api/openapi.json", "/gradio_api/info"):  # fmt: skip
            assert session.get(kiosk.url + path).status_code == 404, path
        answer = session.post(f"{kiosk.url}/present/first-look/rehearsal")
        assert (answer.status_code, answer.json()["detail"]) == (404, "This screen is a kiosk: the chat is all that it shows.")
    browsers.expect_complaint("status of 404|AbortError|Connection errored out")
    page = sign_in(browsers.open(kiosk))
    page.goto("/explore?a=b")
    expect(page.get_by_role("heading", name="Not on this screen")).to_be_visible()
    page.get_by_role("link", name="To the chat").click()
    expect(pages.textarea(page)).to_be_visible()
    page.goto("/?view=api")
    expect(pages.textarea(page)).to_be_visible()
    assert "view" not in page.url
    expect(page.locator(".api-docs, .api-docs-wrap")).to_have_count(0)


def test_a_standing_screen_has_large_type_the_brand_and_no_figures(browsers: Browsers, kiosk: Program):
    browsers.expect_complaint("AbortError|Connection errored out")
    page = sign_in(browsers.open(kiosk, STANDING))
    expect(page.locator("html.opening")).to_have_count(0)
    assert page.evaluate("parseFloat(getComputedStyle(document.documentElement).fontSize)") >= 24
    assert page.evaluate(
        "document.documentElement.scrollHeight <= innerHeight && document.documentElement.scrollWidth <= innerWidth"
    )
    expect(page.locator("#chat-history").get_by_role("button", name="Select example").last).to_be_in_viewport(ratio=1)
    title = page.get_by_role("heading", name=TITLE)
    expect(title).to_be_in_viewport(ratio=1)
    assert title.evaluate("box => box.scrollHeight <= box.clientHeight + 1"), "the whole title is visible"
    expect(page.locator("#logo img")).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("button", name="Take a photo")).to_be_in_viewport(ratio=1)
    expect(page.get_by_test_id("upload-button")).to_be_in_viewport(ratio=1)
    expect(page.get_by_test_id("submit-button")).to_have_css("background-color", "rgb(250, 204, 21)")
    expect(page.get_by_test_id("submit-button")).to_have_css("color", "rgb(0, 0, 0)")
    pages.take_screenshots(page, "kiosk-standing-first")
    pages.ask_and_wait(page, "What is in this image?", EXAMPLE_IMAGES / "dog.png")
    for figures in page.locator(".figures").all():
        expect(figures).to_be_hidden()
    text = page.locator("body").inner_text()
    expect(page.get_by_role("button", name="What the model saw")).to_be_visible()
    for word in ("tokens", "slots", "context", "model embedded", "tiles"):
        assert word not in text
    assert not obstacles(page)
    pages.take_screenshots(page, "kiosk-standing")


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
