"""The operator's page: access with the key, and figures that update without a reload."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.neuron_monitor import write_player
from tests.support.program import Program, running, visitor

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
    admin.evaluate("document.getElementById('restart').hidden = true")  # as where the model has no process of its own
    assert admin.evaluate("[...document.querySelectorAll('[hidden]')].every((each) => !each.checkVisibility())")

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

    assert not obstacles(admin)
    pages.take_screenshots(admin, "admin")
    admin.set_viewport_size(PHONE)
    assert admin.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "only tables scroll sideways"
    pages.take_screenshot(admin, "admin-phone")


def test_the_dot_stands_before_the_state_on_a_phone(browsers: Browsers):
    admin = open_admin(browsers)
    admin.set_viewport_size(PHONE)
    dot, state = admin.locator("#dot").bounding_box(), admin.locator("#state").bounding_box()
    assert dot is not None
    assert state is not None
    assert state["y"] < dot["y"] + dot["height"], "the dot is not in a line of its own"


def test_the_chat_shows_the_way_to_the_operators_page_only_in_a_browser_that_opened_it(browsers: Browsers):
    browsers.expect_complaint("AbortError|Connection errored out")
    page = open_admin(browsers)
    page.get_by_role("link", name="Chat").click()
    expect(page.locator("#account").get_by_role("link")).to_have_text(["Operator’s page"])
    visitor = pages.open_chat(browsers.open())
    expect(visitor.locator("#account").get_by_role("link")).to_have_count(0)


def test_a_failure_is_found_by_the_id_of_its_request(browsers: Browsers, server: Program):
    admin = open_admin(browsers)
    for request_id in ("from-anna", "from-ben"):
        with visitor() as http:
            body = {"messages": [{"role": "user", "content": "word " * 5000}]}
            headers = {"X-Request-Id": request_id}
            assert http.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60).status_code == 400
    rows = admin.locator("#failures tbody tr")
    expect(rows).to_have_count(2)
    admin.get_by_label("Request", exact=True).fill("from-anna")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("prompt_too_long")
    expect(rows).to_contain_text("from-anna")
    assert not obstacles(admin)
    pages.take_screenshot(admin, "admin-failures")
    admin.get_by_label("Request", exact=True).fill("nobody")
    expect(admin.locator("#no-failures")).to_have_text("No failure of such a request is known.")


def test_the_operator_starts_the_model_again_by_hand(browsers: Browsers):
    admin = open_admin(browsers)
    admin.once("dialog", lambda dialog: dialog.accept())
    admin.get_by_role("button", name="Start the model again").click()
    expect(admin.locator("#state")).to_contain_text("started again once")
    expect(admin.locator("#state")).to_contain_text("Ready")
    assert not obstacles(admin)


def test_the_neuron_devices_are_shown_where_there_is_a_monitor(browsers: Browsers, tmp_path: Path, monkeypatch):
    (tmp_path / "bin").mkdir()
    write_player(tmp_path / "bin" / "neuron-monitor")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with running(tmp_path, "--admin-key", KEY) as program:
        program.wait_ready()
        browsers.expect_complaint("status of 401")
        page = browsers.open(program)
        page.goto("/admin")
        page.get_by_label("Key").fill(KEY)
        page.get_by_role("button", name="Open").click()
        expect(page.locator("#neuron-cores li")).to_have_count(32)
        expect(page.locator("#neuron-cores li").first).to_have_text("0: 41 %, 7.4 GiB")
        expect(page.locator("#neuron-cores meter").first).to_have_attribute(
            "aria-label", "memory of NeuronCore 0: 7.4 GiB of 16.0 GiB"
        )
        expect(page.locator("#neuron-summary")).to_have_text(
            "32 NeuronCores in use · a step takes 31 ms on the device · 6.5 GiB of the host's memory"
        )
        expect(page.locator("#neuron-problem")).to_contain_text("failed steps: hardware 2, numerical 1")
        expect(page.locator("#neuron-problem")).to_contain_text("replace the instance")
        assert not obstacles(page)
        pages.take_screenshot(page, "admin-neuron")
