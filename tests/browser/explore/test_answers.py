"""Single answers on the Explore page: stop, failure, rerun, branch. Runs: export, import, repeat, code."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.browser.explore_page import (
    FAILING_SEED_DEMO,
    branch,
    branch_endlessly,
    cell,
    compare,
    exported,
    fill,
    open_answer,
    open_explore,
    open_tokens,
    press,
    run_and_wait,
    run_endlessly,
    text_of,
    token_ids,
    wait_finished,
    wait_token,
)
from tests.support.program import Program, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(400)
BLUE = "rgb(11, 95, 255)"


@pytest.fixture(scope="module")
def branded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server with its own brand, and a model that fails on seed 13 while the file `broken` exists."""
    home = tmp_path_factory.mktemp("branded_server")
    Image.new("RGBA", (120, 40), (11, 95, 255, 255)).save(home / "logo.png")
    brand = ("--title", "Fish & Chips", "--brand-logo", str(home / "logo.png"), "--brand-color", "#0b5fff")
    options = (*brand, "--brand-footer", "Made by us.", "--max-kept-runs", "2")
    # The log has the traceback of the model that fails.
    with running(home, *options, script=FAILING_SEED_DEMO, tracebacks=True) as program:
        program.wait_ready()
        yield program


def idle(server: Program) -> bool:
    health = server.health()
    return (health["running"], health["waiting"]) == (0, 0)


# --- stop ------------------------------------------------------------------------------------------------------------------


def test_stop_of_one_cell_leaves_the_others_running(slow_page: Page, slow_server: Program):
    page = open_explore(slow_page)
    run_endlessly(page, seeds="1, 2, 3")
    expect(cell(page, 1)).to_have_attribute("data-phase", "writing")
    open_answer(page, 0)
    press(page, 0, "Stop")
    expect(cell(page, 0)).to_have_attribute("data-phase", "done")
    text = cell(page, 1).locator(".text").inner_text()
    expect(cell(page, 1)).to_have_attribute("data-phase", "writing")
    expect(cell(page, 1).locator(".text")).not_to_have_text(text)
    expect(page.locator("#run-title")).to_have_text("1 of 3 answers")
    page.locator("#stop-all").click()
    wait_finished(page)
    for index in range(3):
        expect(cell(page, index).locator(".status")).to_contain_text("stopped")
    wait_until(lambda: idle(slow_server), "all slots are free")


def test_stop_buttons_of_a_rerun_and_of_a_branch(slow_page: Page, slow_server: Program):
    page = open_explore(slow_page)
    run_endlessly(page)
    expect(cell(page, 0).locator(".status")).to_contain_text("tokens")
    press(page, 0, "Stop")
    wait_finished(page)
    press(page, 0, "Run again")
    expect(cell(page, 0).locator(".status")).to_contain_text("tokens")
    press(page, 0, "Stop")
    expect(cell(page, 0).locator(".status")).to_contain_text("stopped")
    open_tokens(page, 0)
    branch_endlessly(page)
    page.locator("#branch").get_by_role("button", name="Stop").click()
    expect(page.locator("#branch .status")).to_contain_text("saved under the grid as B1")
    expect(open_answer(page, 1).locator("> .status")).to_contain_text("stopped")
    wait_until(lambda: idle(slow_server), "all slots are free")


@pytest.mark.parametrize("what", ["a run", "a rerun", "a branch"])
def test_closing_the_page_stops_generation(browsers: Browsers, slow_server: Program, what: str):
    page = open_explore(browsers.open(slow_server))
    run_endlessly(page)
    expect(cell(page, 0).locator(".status")).to_contain_text("tokens")
    if what != "a run":
        page.locator("#stop-all").click()
        wait_finished(page)
    if what == "a rerun":
        press(page, 0, "Run again")
        expect(cell(page, 0)).to_have_attribute("data-phase", "writing")
    if what == "a branch":
        open_tokens(page, 0)
        branch_endlessly(page)
    assert not idle(slow_server)
    page.context.new_page()
    page.close()
    wait_until(lambda: idle(slow_server), "all slots are free")


def test_a_run_that_is_reloaded_keeps_its_answers_so_far(slow_page: Page, slow_server: Program):
    page = open_explore(slow_page)
    run_endlessly(page)
    expect(cell(page, 0).locator(".text")).to_have_text(re.compile(r"\w\W*\w"))  # the first tokens are only the mark of a list
    page.reload()
    expect(page.locator("#temperature")).to_have_value("0")
    expect(open_answer(page, 0).locator("> .text")).not_to_be_empty()
    wait_until(lambda: idle(slow_server), "all slots are free")
    page.reload()
    expect(open_answer(page, 0).locator("> .text")).not_to_be_empty()
    expect(open_answer(page, 0).locator("> .status")).to_contain_text("stopped")
    expect(page.locator("#runs li")).to_have_count(1)


# --- failure ---------------------------------------------------------------------------------------------------------------


def test_a_failed_cell_shows_its_error_and_can_be_run_again_alone(browsers: Browsers, branded_server: Program):
    page = open_explore(browsers.open(branded_server))
    fill(page, temperature="1", top_p="1", seed="12, 13, 14", max_tokens="8")
    broken = branded_server.home / "broken"
    broken.touch()
    run_and_wait(page, 3)
    failed = cell(page, 1)
    expect(failed).to_have_attribute("data-outcome", "error")
    expect(failed.locator(".status")).to_contain_text("The model failed on this request.")
    expect(open_answer(page, 1).locator("> .status")).to_contain_text("The model failed on this request.")
    expect(page.locator("#runs")).to_contain_text("3 cells, 1 failed")
    others = [cell(page, index).locator(".text").inner_text() for index in (0, 2)]
    with page.expect_response(lambda response: response.url.endswith("/explore/runs")):  # asked for when it has ended
        press(page, 1, "Run again")
    expect(failed).to_have_attribute("data-outcome", "error")
    broken.unlink()
    press(page, 1, "Run again")
    expect(failed).to_have_attribute("data-outcome", "max_tokens")
    expect(failed.locator(".text")).not_to_be_empty()
    assert [cell(page, index).locator(".text").inner_text() for index in (0, 2)] == others
    expect(page.locator("#measures-panel tbody tr").first).to_contain_text("3")
    expect(page.locator("#runs")).not_to_contain_text("failed")
    page.reload()  # the address is that of the run
    expect(cell(page, 1)).to_have_attribute("data-outcome", "max_tokens")
    broken.touch()
    press(page, 1, "Repeat")
    expect(page.locator(".detail #message")).to_contain_text("The model failed on this request.")
    expect(page.locator(".detail #message")).to_contain_text("The earlier answer stays.")
    expect(cell(page, 1)).to_have_attribute("data-outcome", "max_tokens")
    broken.unlink()


# --- branches --------------------------------------------------------------------------------------------------------------


def test_a_branch_has_tokens_what_if_and_comparison_until_it_is_deleted(page: Page):
    open_explore(page)
    fill(page, temperature="1, 2", top_p="1", seed="1", max_tokens="16")
    run_and_wait(page, 2)
    open_tokens(page, 1)
    page.locator("#token-2").click()
    wait_token(page, 3)
    branch(page)
    made = cell(page, 2)
    expect(made).to_contain_text("from cell 2, with")
    expect(made).to_contain_text("as token 3")
    page.get_by_role("button", name="Tokens of B1").click()
    wait_token(page, 3)
    expect(page.locator("#token-panel h4")).to_have_text("Tokens of branch B1")
    expect(page.locator(".candidates .chosen")).to_contain_text("chosen by hand")
    expect(page.locator("#candidates")).to_contain_text("This token was chosen by hand.")
    page.locator("#whatif-temperature").fill("1")
    page.get_by_role("button", name="As it was").click()
    expect(page.locator("#whatif-result")).to_contain_text("would choose this very answer")
    branch(page)
    expect(page.locator("#branch .status")).to_contain_text("saved under the grid as B2")
    expect(page.locator("#token-panel h4")).to_have_text("Tokens of branch B1")
    expect(cell(page, 3)).to_contain_text("from branch B1")
    page.once("dialog", lambda dialog: dialog.accept())
    press(page, 3, "Delete branch B2")
    expect(cell(page, 3)).to_have_count(0)
    compare(page, 1, 2)
    expect(page.locator("#divergence")).to_contain_text("They part at token 3. In one of them this token was chosen by hand")
    run = exported(page)
    assert [(b["number"], b["parent"], b["position"]) for b in run["branches"]] == [(1, 1, 2)]
    page.reload()  # the address is that of the run
    expect(made).to_contain_text("from cell 2, with")
    page.once("dialog", lambda dialog: dialog.accept())
    press(page, 2, "Delete branch B1")
    expect(made).to_have_count(0)
    expect(page.locator("#branches")).to_be_hidden()
    assert exported(page) == {**run, "branches": []}


# --- export, import, repeat ------------------------------------------------------------------------------------------------


def test_an_exported_run_is_deleted_and_imported_unchanged(fresh_page: Page, tmp_path: Path):
    open_explore(fresh_page)
    fill(fresh_page, temperature="1", top_p="1", seed="5, 6", max_tokens="8")
    run_and_wait(fresh_page, 2)
    open_tokens(fresh_page, 0)
    branch(fresh_page)
    expect(cell(fresh_page, 2)).to_be_visible()
    with fresh_page.expect_download() as download:
        fresh_page.get_by_role("link", name="Export JSON").click()
    file = tmp_path / "run.json"
    download.value.save_as(file)
    shown = [text_of(fresh_page, index) for index in range(3)]
    fresh_page.on("dialog", lambda dialog: dialog.accept())
    fresh_page.locator("#runs").get_by_role("button", name="Delete").click()
    expect(fresh_page.locator("#runs")).to_contain_text("None yet")
    fresh_page.reload()
    fresh_page.locator("#import").set_input_files(file)
    expect(fresh_page.locator("#branches .cell")).to_have_count(1)
    assert [text_of(fresh_page, index) for index in range(3)] == shown
    assert exported(fresh_page) == json.loads(file.read_text())
    press(fresh_page, 0, "Repeat")
    expect(fresh_page.locator(".detail > .status")).to_contain_text("max tokens")
    assert [text_of(fresh_page, index) for index in range(3)] == shown


def test_importing_a_file_without_a_run_shows_a_message(page: Page, browsers: Browsers):
    browsers.expect_complaint("400")
    open_explore(page)
    page.locator("#import").set_input_files({"name": "a.json", "mimeType": "application/json", "buffer": b"[]"})
    expect(page.locator("#message")).to_contain_text("The file is no run of this program")


def test_run_all_again_gives_the_same_tokens_in_a_new_run(page: Page):
    open_explore(page)
    fill(page, temperature="1, 2", top_p="0.9", seed="3, 4", max_tokens="12")
    run_and_wait(page, 4)
    before = exported(page)
    page.get_by_role("button", name="Run all again").click()
    expect(page.locator("#runs li")).to_have_count(2)
    wait_finished(page)
    after = exported(page)
    assert after["id"] != before["id"]
    assert token_ids(after) == token_ids(before)


def test_the_curl_code_of_a_cell_reproduces_its_answer(page: Page, tmp_path: Path):
    open_explore(page)
    fill(page, temperature="0.5, 1.5", top_p="0.9", seed="7", max_tokens="12")
    run_and_wait(page, 2)
    press(page, 1, "Code")
    dialog = page.locator("dialog")
    with page.expect_download() as download:
        dialog.get_by_role("link", name="dog.png").click()
    download.value.save_as(tmp_path / "dog.png")
    curl = dialog.get_by_label("curl code", exact=True).inner_text()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_have_count(0)
    done = subprocess.run(["bash", "-eu", "-c", curl], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    text = json.loads(done.stdout)["choices"][0]["message"]["content"]
    first, second = (made["text"] for made in exported(page)["cells"])
    assert text == second != first


# --- brand and settings ----------------------------------------------------------------------------------------------------


def test_the_page_and_its_report_show_the_brand(browsers: Browsers, branded_server: Program, tmp_path: Path):
    page = open_explore(browsers.open(branded_server))
    expect(page).to_have_title("Explore sampling · Fish & Chips")
    expect(page.locator("body > header")).to_contain_text("Fish & Chips")
    expect(page.locator("body > footer")).to_have_text("Made by us.")
    logo = page.locator("body > header img")
    assert logo.evaluate("image => image.naturalWidth") == 120
    expect(page.locator("#run")).to_have_css("background-color", BLUE)
    fill(page, temperature="1, 2", top_p="0.5, 1", seed="1", max_tokens="8")
    run_and_wait(page, 4)
    assert page.locator("#measures-panel .scroll").evaluate("(box) => box.scrollWidth <= box.clientWidth"), "it fits 1280 pixels"
    with page.expect_download() as download:
        page.get_by_role("link", name="Export HTML").click()
    report = tmp_path / "report.html"
    download.value.save_as(report)
    page = page.context.new_page()
    page.set_content(report.read_text())
    assert not obstacles(page)
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.emulate_media(media="print", color_scheme="light")
    expect(page.locator("article").first).to_have_css("break-inside", "avoid")
    expect(page.locator(".scroll").first).to_have_css("overflow-x", "visible")
    expect(page.locator(".token").first).to_have_css("print-color-adjust", "exact")
    page.emulate_media(media="screen")
    expect(page.locator("body > header")).to_contain_text("Fish & Chips")
    expect(page.locator("body > footer")).to_have_text("Made by us.")
    expect(page.locator("blockquote")).to_have_css("border-left-color", BLUE)
    source = page.locator("body > header img").get_attribute("src") or ""
    assert Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size == (120, 40)


def test_only_the_newest_runs_are_listed(browsers: Browsers, branded_server: Program):
    page = open_explore(browsers.open(branded_server))
    expect(page.locator("#runs-hint")).to_contain_text("The newest 2 runs are saved")
    fill(page, temperature="1", top_p="1", max_tokens="4")
    for prompt in ("First", "Second", "Third"):
        fill(page, prompt=prompt)
        run_and_wait(page, 1)
        expect(page.locator("#runs li").first).to_contain_text(prompt)
    expect(page.locator("#runs li")).to_have_count(2)
    expect(page.locator("#runs li").last).to_contain_text("Second")
