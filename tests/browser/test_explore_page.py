"""The Explore page in a real browser: a grid with an image, its tokens, what if, and a run taken out and brought back."""

from __future__ import annotations

from pathlib import Path

import pytest
from browsers import Browsers
from playwright.sync_api import Locator, Page, expect
from program import Program
from prometheus_client.parser import text_string_to_metric_families
from test_accessibility import obstacles

pytestmark = pytest.mark.timeout(400)


def open_explore(page: Page) -> Page:
    page.goto("/explore")
    expect(page.locator("#estimate")).to_contain_text("cells")
    return page


def fill(page: Page, **values: str) -> None:
    for name, value in values.items():
        page.locator(f"#{name}").fill(value)


def run_and_wait(page: Page, cells: int) -> None:
    expect(page.locator("#estimate")).to_contain_text(f"{cells} cell")
    page.locator("#run").click()
    expect(page.locator("#measures-panel")).to_be_visible()
    expect(page.locator(".cell")).to_have_count(cells)


def cell(page: Page, index: int) -> Locator:
    return page.locator(".cell").nth(index)


def open_tokens(page: Page, index: int) -> None:
    cell(page, index).get_by_role("button", name="Tokens").click()
    expect(page.locator("#waterfall h3")).to_contain_text("Token 1:")


def requests_answered(server: Program) -> float:
    """How many questions the backend has taken to their end."""
    page = server.get("/metrics")
    assert page is not None
    families = text_string_to_metric_families(page.text)
    return sum(s.value for f in families for s in f.samples if s.name == "vllm:request_success_total")


def test_a_grid_with_an_image_can_be_read_by_mouse_and_keyboard(page: Page):
    open_explore(page)
    fill(page, temperature="0, 1, 2", top_p="0.5, 0.9, 1", seed="1, 2", max_tokens="12")
    page.get_by_role("button", name="dog").click()
    run_and_wait(page, 18)
    expect(page.locator("#heat td[style]").first).to_be_visible()
    open_tokens(page, 16)
    page.locator("#token-3").click()
    expect(page.locator("#waterfall h3")).to_contain_text("Token 4:")
    page.locator("#tokens").press("ArrowRight")
    expect(page.locator("#waterfall h3")).to_contain_text("Token 5:")
    expect(page.locator(".waterfall .drawn")).to_contain_text("drawn: 0.")
    expect(page.locator(".waterfall .outside")).to_be_visible()
    page.locator("#waterfall").get_by_role("button", name="Continue from").first.click()
    expect(page.locator("#branch mark")).not_to_be_empty()
    for index in (0, 16):
        cell(page, index).get_by_role("checkbox").check()
    expect(page.locator("#parting")).to_contain_text("They part at token")
    assert not obstacles(page)


def test_what_if_changes_the_marks_and_asks_the_model_nothing(page: Page, server: Program):
    open_explore(page)
    fill(page, temperature="2", top_p="1", top_k="0", seed="1", max_tokens="24")
    run_and_wait(page, 1)
    open_tokens(page, 0)
    before = requests_answered(server)
    page.locator("#whatif-top_k").fill("1")
    expect(page.locator("#whatif-says")).to_contain_text("could not have been drawn")
    expect(page.locator(".token.impossible").first).to_be_visible()
    expect(page.locator(".token.differs")).to_have_count(1)
    page.get_by_role("button", name="As it was").click()
    expect(page.locator("#whatif-says")).to_contain_text("would choose this very answer")
    expect(page.locator(".token.impossible")).to_have_count(0)
    assert requests_answered(server) == before


def test_one_cell_can_be_stopped_and_run_again_alone(page: Page):
    open_explore(page)
    fill(page, prompt="x " * 299 + "x", temperature="0", top_p="1", seed="1, 2, 3, 4, 5, 6", max_tokens="1000")
    page.get_by_role("button", name="None").click()
    expect(page.locator("#estimate")).to_contain_text("6 cells")
    page.locator("#run").click()
    expect(cell(page, 0)).to_have_attribute("data-phase", "writing")
    cell(page, 0).get_by_role("button", name="Stop").click()
    expect(cell(page, 0)).to_have_attribute("data-phase", "done")
    expect(cell(page, 1)).not_to_have_attribute("data-phase", "done")
    page.locator("#stop-all").click()
    expect(cell(page, 5).locator(".status")).to_contain_text("stopped")
    expect(cell(page, 0).get_by_role("button", name="Run again")).to_be_visible()


def test_a_run_is_kept_and_can_be_taken_out_deleted_and_brought_back(page: Page, tmp_path: Path):
    open_explore(page)
    fill(page, temperature="1", top_p="1", seed="5", max_tokens="8")
    run_and_wait(page, 1)
    said = cell(page, 0).locator(".text").inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="JSON").click()
    file = tmp_path / "run.json"
    download.value.save_as(file)
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("#kept").get_by_role("button", name="Delete").click()
    expect(page.locator("#kept")).to_contain_text("None yet")
    page.reload()
    page.locator("#import").set_input_files(file)
    expect(cell(page, 0).locator(".text")).to_have_text(said)
    cell(page, 0).get_by_role("button", name="Repeat").click()
    expect(cell(page, 0).locator(".status")).to_contain_text("max_tokens")
    expect(cell(page, 0).locator(".text")).to_have_text(said)


def test_what_is_wrong_is_said_before_anything_runs(page: Page, browsers: Browsers):
    browsers.expect_complaint("400")
    open_explore(page)
    fill(page, temperature="0.5, 9")
    expect(page.locator("#estimate")).to_contain_text("temperature must be a number from 0 to 2")
    expect(page.locator("#run")).to_be_disabled()
    fill(page, temperature="0.5, warm")
    expect(page.locator("#estimate")).to_contain_text("“warm” is no number")
