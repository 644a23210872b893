"""Actions on the Explore page for browser tests. They wait for conditions, never for a fixed time."""

from __future__ import annotations

import time
from typing import Any

from playwright.sync_api import Locator, Page, Response, expect

from tests.support.browser import chat_page as pages
from tests.support.paths import DEMOS

FAILING_SEED_DEMO = DEMOS / "failing_seed_demo.py"
# With greedy sampling, nothing ends the answer to this prompt before max_tokens.
ENDLESS_PROMPT = "x " * 299 + "x"


def open_explore(page: Page) -> Page:
    page.goto("/explore")
    expect(page.locator("#estimate")).to_contain_text("cells")
    return page


def fill(page: Page, **values: str) -> None:
    for name, value in values.items():
        page.locator(f"#{name}").fill(value)


def run(page: Page, cells: int) -> None:
    expect(page.locator("#estimate")).to_contain_text(f"{cells} cell")
    page.locator("#run").click()
    expect_cells(page, cells)


def expect_cells(page: Page, cells: int) -> None:
    """Waits until the matrix shows this number of cells; neighbours with the same answer are one element."""
    count = "[...document.querySelectorAll('#grid .cell')].flatMap((cell) => cell.dataset.cells.split(' ')).length"
    page.wait_for_function(f"(cells) => {count} === cells", arg=cells, polling=pages.POLL_MS)


def run_and_wait(page: Page, cells: int) -> None:
    """Returns when the last request of the page has its answer. After a run it lists the runs, then estimates the next run."""
    answered: list[Response] = []

    def estimate_after_runs() -> Response | None:
        names = [response.url.rpartition("/")[2] for response in answered]
        if "runs" not in names or "estimate" not in names[names.index("runs") :]:
            return None
        return answered[names.index("estimate", names.index("runs"))]

    def note(response: Response) -> None:
        answered.append(response)

    expect(page.locator("#estimate")).to_contain_text(f"{cells} cell")
    page.on("response", note)  # before the run, which may finish at once
    run(page, cells)
    wait_finished(page)
    deadline = time.monotonic() + pages.PATIENCE_MS / 1000
    while (estimate := estimate_after_runs()) is None:
        assert time.monotonic() < deadline, f"answered: {[response.url for response in answered]}"
        page.wait_for_timeout(pages.POLL_MS)
    page.remove_listener("response", note)
    estimate.finished()  # its body, too: a test may cut the connection next


def run_endlessly(page: Page, seeds: str = "1", max_tokens: int = 1000) -> None:
    """Starts one answer for each seed; on the slow server they outlast any test. Returns during the decode of the first."""
    fill(page, prompt=ENDLESS_PROMPT, temperature="0", top_p="1", seed=seeds, max_tokens=str(max_tokens))
    page.get_by_role("button", name="None").click()
    run(page, len(seeds.split(",")))
    expect(cell(page, 0)).to_have_attribute("data-phase", "writing")


def wait_finished(page: Page) -> None:
    """Waits for the end of a run, also of a stopped one."""
    expect(page.locator("#stop-all")).to_be_hidden()
    expect(page.locator("#measures-panel")).to_be_visible()


def cell(page: Page, index: int) -> Locator:
    """The element of one answer: a cell of the grid, or a branch, whose index follows those of the cells."""
    return page.locator(f'[data-cells~="{index}"]')


def open_answer(page: Page, index: int) -> Locator:
    """Opens an answer, unless it is open, and returns what is shown of it."""
    button = cell(page, index)
    if button.get_attribute("aria-expanded") != "true":
        button.click()
    if (button.get_attribute("data-cells") or "").split()[0] != str(index):  # one of several neighbours with the same answer
        page.locator(".same-cells").get_by_role("button", name=str(index + 1), exact=True).click()
    return page.locator(".detail")


def text_of(page: Page, index: int) -> str:
    """The whole text of an answer."""
    return open_answer(page, index).locator("> .text").inner_text()


def press(page: Page, index: int, name: str) -> None:
    """Presses a button of one answer."""
    open_answer(page, index).get_by_role("button", name=name, exact=True).click()


def compare(page: Page, a: int, b: int) -> None:
    press(page, a, "Compare with …")
    cell(page, b).click()


def open_tokens(page: Page, index: int) -> None:
    press(page, index, "Tokens")
    wait_token(page, 1)


def wait_token(page: Page, number: int) -> None:
    expect(page.locator("#candidates h5").first).to_contain_text(f"Token {number}:")


def branch(page: Page) -> None:
    """Starts a branch from the likeliest candidate that was not chosen."""
    page.locator("#candidates").get_by_role("button", name="Continue from").first.click()


def branch_endlessly(page: Page) -> None:
    """Starts a branch of an answer of run_endlessly that ends at max_tokens too, and waits for its first words."""
    page.locator("#token-1").click()
    wait_token(page, 2)
    branch(page)
    expect(page.locator("#branch mark")).not_to_be_empty()


def exported(page: Page) -> dict[str, Any]:
    """The displayed run as JSON."""
    address = page.get_by_role("link", name="Export JSON").get_attribute("href")
    assert address is not None
    answer = page.request.get(address)
    assert answer.ok
    return answer.json()


def token_ids(run: dict[str, Any]) -> list[list[int]]:
    return [[token["id"] for token in cell["tokens"]] for cell in run["cells"]]
