"""Results that come late on the Explore page: they are not shown in another run or another place than they were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.browser.browsers import Browsers
from tests.support.browser.explore_page import (
    branch,
    cell,
    exported,
    fill,
    open_answer,
    open_explore,
    open_tokens,
    press,
    run,
    run_and_wait,
    run_endlessly,
    text_of,
    wait_finished,
    wait_token,
)
from tests.support.network_link import NetworkLink
from tests.support.program import Program

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def link(slow_server: Program) -> Iterator[NetworkLink]:
    link = NetworkLink(slow_server.port)
    yield link
    link.close()


def saved_run(page: Page, title: str):
    return page.locator("#runs").get_by_role("link", name=title)


def test_a_repeated_answer_stays_out_of_the_run_that_is_shown_by_then(slow_page: Page, dictation: Path):
    """Also: emoji are shared with a branch as whole characters, and a name that is being typed stays when the list is drawn."""
    page = open_explore(slow_page)
    dictation.write_text("🦊🐻🐼 Three animals walk home.", encoding="utf-8")
    fill(page, prompt="First", temperature="1", top_p="1", seed="5, 6", max_tokens="40")
    run_and_wait(page, 2)
    dictation.write_text("Second.", encoding="utf-8")
    fill(page, prompt="Second")
    run_and_wait(page, 2)
    dictation.write_text("Repeated.", encoding="utf-8")
    pause = dictation.with_name("pause")
    pause.touch()
    press(page, 0, "Repeat")
    expect(cell(page, 0)).to_have_attribute("data-phase", "writing")
    expect(cell(page, 0)).to_contain_text("Repeated")
    saved_run(page, "First").click()
    expect(page.locator("#run-title")).to_have_text("First")
    page.get_by_role("button", name="Rename Second").click()
    field = page.get_by_label("Name of the run")
    field.fill("Half a na")
    with page.expect_response(lambda response: response.url.endswith("/explore/runs")):  # asked for when it has ended
        pause.unlink()
    expect(cell(page, 0)).to_have_attribute("data-phase", "done")
    expect(page.locator("#grid .cell .text")).to_have_text(["🦊🐻🐼 Three animals walk home."])
    assert field.evaluate("field => document.activeElement === field")
    page.keyboard.type("me")
    expect(field).to_have_value("Half a name")
    page.keyboard.press("Enter")
    saved_run(page, "Half a name").click()
    expect(page.locator("#run-title")).to_have_text("Half a name")
    assert [text_of(page, index) for index in (0, 1)] == ["Repeated.", "Second."]

    page.go_back()
    expect(page.locator("#run-title")).to_have_text("First")
    open_tokens(page, 0)
    tokens = exported(page)["cells"][0]["tokens"]
    position = next(at for at, token in enumerate(tokens) if "Three" in "".join(one["text"] for one in tokens[: at + 1]))
    page.locator(f"#token-{position}").click()
    wait_token(page, position + 1)
    branch(page)
    expect(page.locator("#branch .status")).to_contain_text("saved under the grid as B1")
    shared = "".join(token["text"] for token in tokens[:position])
    assert "🐼" in shared
    assert page.locator("#branch .text .shared").evaluate("part => part.textContent") == shared
    assert cell(page, 2).locator(".text .shared").evaluate("part => part.textContent") == shared


def test_results_for_a_closed_or_replaced_place_are_dropped(page: Page):
    open_explore(page)
    fill(page, prompt="First", temperature="1, 2", top_p="1", seed="1", max_tokens="6")
    run_and_wait(page, 2)
    fill(page, prompt="Second")
    run_and_wait(page, 2)
    held: list[Route] = []

    def release() -> None:
        """Lets the request through that is held, and waits for its response."""
        while not held:
            page.wait_for_timeout(20)
        route = held.pop()
        with page.expect_response(route.request.url) as response:
            route.continue_()
        response.value.finished()
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")  # the page has seen it

    page.route("**/compare?*", lambda route: held.append(route))
    press(page, 0, "Compare with …")
    cell(page, 1).click()
    page.locator(".detail").get_by_role("button", name="Close").click()
    release()
    open_answer(page, 0)
    page.route("**/cells/0/tokens", lambda route: held.append(route))
    press(page, 0, "Tokens")
    open_answer(page, 1)
    release()
    press(page, 1, "Tokens")
    wait_token(page, 1)
    expect(page.locator("#token-panel h4")).to_have_text("Tokens of cell 2")
    expect(page.locator("#message")).to_be_hidden()

    second = page.url.rpartition("=")[2]
    page.route(f"**/runs/{second}", lambda route: held.append(route))
    saved_run(page, "Second").click()
    saved_run(page, "First").click()
    expect(page.locator("#run-title")).to_have_text("First")
    address = page.url
    release()
    expect(page.locator("#run-title")).to_have_text("First")
    assert page.url == address


def test_next_in_the_tour_stops_the_run_of_the_step_before(slow_page: Page, dictation: Path):
    page = open_explore(slow_page)
    dictation.write_text("One two three four five six seven eight.", encoding="utf-8")
    pause = dictation.with_name("pause")
    pause.touch()
    page.get_by_role("button", name="Take the tour").click()
    expect(cell(page, 0)).to_have_attribute("data-phase", "writing")
    page.locator("#tour-panel").get_by_role("button", name="Next").click()
    expect(page.locator("#tour-panel h2")).to_contain_text("2 of 7")
    pause.unlink()
    expect(page.locator(".detail h3")).to_have_text("Cell 2")
    wait_token(page, 6)
    expect(page.locator("#temperature")).to_have_value("1")
    expect(page.locator("#tour-runs-title")).to_have_text("2 runs of the tour")
    expect(page.locator("#message")).to_be_hidden()


def test_without_a_server_the_page_says_so_and_recovers(browsers: Browsers, slow_server: Program, link: NetworkLink):
    browsers.expect_complaint("ERR_")
    page = open_explore(browsers.open(replace(slow_server, url=link.url)))
    fill(page, prompt="Kept", temperature="0", seed="1", top_p="1", max_tokens="2")
    run_and_wait(page, 1)
    link.cut()
    page.locator("#run").click()
    expect(page.locator("#message")).to_have_text("The server cannot be reached.")
    expect(page.locator("#estimate")).to_have_text("The server cannot be reached.")
    expect(page.locator("#run")).to_be_disabled()
    expect(page.locator("#run-title")).to_have_text("Kept")
    expect(page.get_by_role("button", name="Run all again")).to_be_visible()
    expect(page.locator("#measures-panel")).to_be_visible()
    link.mend()
    expect(page.locator("#run")).to_be_enabled()
    run_endlessly(page, seeds="1, 2")
    link.cut()
    expect(page.locator("#message")).to_contain_text("The connection ended before the answer did.")
    expect(page.locator("#run-title")).to_have_text("0 of 2 answers, then the run broke off")
    expect(page.locator("#grid .cell .status")).to_have_text(["broken off", "broken off"])
    expect(page.locator("#stop-all")).to_be_hidden()
    link.mend()
    expect(page.locator("#run")).to_be_enabled()
    fill(page, prompt="After it", seed="1", max_tokens="2")
    run(page, 1)
    wait_finished(page)
    expect(page.locator("#run-title")).to_have_text("After it")
