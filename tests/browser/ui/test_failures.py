"""An answer that fails: the question stays, one sentence says why without internals, and "Try again" asks once more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.paths import EXAMPLE_IMAGES
from tests.support.program import Program, running
from tests.support.protocol_server import Exchange, ProtocolServer, hello

pytestmark = pytest.mark.timeout(300)
INTERNAL = "/srv/models/llama: CUDARuntimeError at http://10.0.0.7:8000"
FAILED = "The server that runs the model failed on this request."


@pytest.fixture(scope="module")
def model_server() -> Iterator[ProtocolServer]:
    server = ProtocolServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, model_server: ProtocolServer) -> Iterator[Program]:
    """A demo whose model runs on model_server."""
    options = ("--backend", "openai", "--remote-url", model_server.url)
    with running(tmp_path_factory.mktemp("front"), *options) as program:
        program.wait_ready()
        yield program


def failing(exchange: Exchange) -> None:
    exchange.refuse(500, {"error": {"message": INTERNAL}})


def failure(page: Page):
    return page.locator("#chat-history .answer-failure")


def assert_no_internals(page: Page, server: ProtocolServer) -> None:
    html = page.locator("body").inner_html()
    assert f":{server.port}" not in html
    assert "10.0.0.7" not in html
    assert "CUDARuntimeError" not in html


def test_a_failed_example_stays_with_a_sentence_and_try_again_answers_it(
    browsers: Browsers, front: Program, model_server: ProtocolServer
) -> None:
    model_server.chat = failing
    page = pages.open_chat(browsers.open(front))
    with pages.settled(page):
        page.locator("#chat-history .example").first.click()
    expect(failure(page)).to_contain_text(FAILED)
    expect(pages.user_rows(page)).to_have_count(1)
    expect(pages.notice(page)).to_have_count(0)
    pages.take_screenshot(page, "failure-desktop")
    assert_no_internals(page, model_server)
    request_id = (failure(page).locator(".request-id").text_content() or "").removeprefix("Request ")
    [line] = [line for line in front.stderr().splitlines() if line.endswith(f"[{request_id}]") and "conversation " in line]
    assert INTERNAL in line, "the operator finds the cause by the id that the visitor reads"
    with pages.settled(page):
        page.reload()
    expect(failure(page)).to_contain_text(FAILED)

    def breaks_off(exchange: Exchange) -> None:
        exchange.say("So far")

    model_server.chat = breaks_off
    with pages.settled(page):
        failure(page).get_by_role("button", name="Try again").click()
    expect(failure(page)).to_contain_text("broke off its answer")
    assert "So far" in pages.last_bot_text(page)
    model_server.chat = hello
    with pages.settled(page):
        failure(page).get_by_role("button", name="Try again").click()
    pages.wait_answered(page)
    assert pages.last_bot_text(page) == "Hello!"
    expect(failure(page)).to_have_count(0)
    assert pages.version_number(page) == "2 / 2", "the answer that broke off is a version; the one that never began is not"


def test_a_typed_question_that_fails_stays_and_the_next_one_goes_on_about_its_image(
    browsers: Browsers, front: Program, model_server: ProtocolServer
) -> None:
    model_server.chat = failing
    page = pages.open_chat(browsers.open(front, viewport=PHONE))
    pages.ask(page, "What is it?", EXAMPLE_IMAGES / "dog.png")
    expect(failure(page)).to_contain_text(FAILED)
    expect(pages.textarea(page)).to_have_value("")
    pages.take_screenshot(page, "failure-phone")
    model_server.chat = lambda exchange: hello(exchange, "A dog.")
    pages.ask(page, "And its colour?")
    expect(pages.bot_rows(page).last).to_contain_text("A dog.")
    sent = model_server.asked[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user"], "the failed question is not sent"
    assert {part["type"] for part in sent[0]["content"]} == {"text", "image_url"}
    expect(pages.user_rows(page)).to_have_count(2)
    expect(failure(page).get_by_role("button")).to_have_count(0)


def test_a_lost_model_server_is_shown_within_three_seconds(
    browsers: Browsers, tmp_path_factory: pytest.TempPathFactory, front: Program, model_server: ProtocolServer
) -> None:
    page = pages.open_chat(browsers.open(front))
    expect(page.locator("#status")).to_contain_text("Ready")
    model_server.stop()
    lost = page.locator("#status .status.down")
    expect(lost).to_contain_text("The server that runs the model cannot be reached.", timeout=10_000)
    assert_no_internals(page, model_server)
    for path in ("/health", "/status", "/v1/models", "/metrics", "/explore", "/present", "/config"):
        answer = front.get(path)
        assert answer is not None
        assert f":{model_server.port}" not in answer.text, path
    assert f":{model_server.port}" in front.stderr(), "the log names the address"
    again = ProtocolServer(model_server.port)
    try:
        expect(page.locator("#status")).to_contain_text("Ready")
    finally:
        again.stop()
