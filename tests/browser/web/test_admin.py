"""The operator's page: access with the key, and figures that update without a reload."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.program import Program, running

pytestmark = pytest.mark.timeout(400)
KEY = "the-operators-key"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The demo with an admin key and two slots."""
    with running(tmp_path_factory.mktemp("admin"), "--admin-key", KEY, "--batch-size", "2") as program:
        program.wait_ready()
        yield program


def open_admin(browsers: Browsers) -> Page:
    browsers.expect_complaint("status of 401")
    page = browsers.open()
    page.goto("/admin")
    page.get_by_label("Key").fill(KEY)
    page.get_by_role("button", name="Open").click()
    expect(page.locator("#state")).to_contain_text("Ready")
    return page


def test_a_wrong_key_is_refused(browsers: Browsers):
    browsers.expect_complaint("status of 401")
    page = browsers.open()
    page.goto("/admin")
    page.get_by_label("Key").fill("not-the-key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This is not the key.")
    assert not obstacles(page)


def test_current_answers_the_last_hour_and_feedback_update_live(browsers: Browsers):
    admin, chat = open_admin(browsers), browsers.open()
    expect(admin.locator("#slots li")).to_have_count(2)
    expect(admin.locator("#no-requests")).to_be_visible()
    expect(admin.locator("#no-feedback")).to_be_visible()

    pages.open_chat(chat)
    pages.ask_endlessly(chat)
    expect(admin.locator("#slots li.busy")).to_have_count(1)
    expect(admin.locator("#requests tbody tr")).to_contain_text("writing")
    pages.take_screenshot(admin, "admin-busy")
    pages.stop_button(chat).click()
    pages.wait_answered(chat)
    expect(admin.locator("#no-requests")).to_be_visible()
    expect(admin.locator("#answers")).to_have_text("1 ")
    assert admin.locator("#chart-tokens .bar").count() >= 1
    assert admin.locator("#chart-ttft .point").count() == 1
    assert "at most" in (admin.locator("#chart-tokens svg").get_attribute("aria-label") or "")

    pages.message_button(chat, "Like").click()
    chat.locator("#note textarea").fill("<img src=x onerror=alert(1)>")
    chat.locator("#send-note").click()
    expect(admin.locator("#feedback tbody tr")).to_contain_text("<img src=x onerror=alert(1)>")
    expect(admin.locator("#rating-counts")).to_have_text("1 good, 0 bad")
    with admin.expect_download() as download:
        admin.get_by_role("link", name="CSV").click()
    text = download.value.path().read_text(encoding="utf-8-sig")
    assert text.startswith("given,rating,note,model")
    assert "<img src=x" in text

    for scheme in ("light", "dark"):
        admin.emulate_media(color_scheme=scheme)
        assert not obstacles(admin)
        pages.take_screenshot(admin, f"admin-{scheme}")
    admin.set_viewport_size(PHONE)
    assert admin.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "only tables scroll sideways"
    pages.take_screenshot(admin, "admin-phone")


def test_the_chat_shows_the_way_to_the_operators_page_only_in_a_browser_that_opened_it(browsers: Browsers):
    browsers.expect_complaint("AbortError|Connection errored out")
    page = open_admin(browsers)
    page.get_by_role("link", name="Chat").click()
    expect(page.locator("#account").get_by_role("link")).to_have_text(["Operator’s page"])
    visitor = pages.open_chat(browsers.open())
    expect(visitor.locator("#account").get_by_role("link")).to_have_count(0)
