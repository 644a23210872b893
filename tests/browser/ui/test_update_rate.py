"""A page that draws too slowly reports it and receives fewer updates."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Request

from tests.support.browser import chat_page as pages
from tests.support.program import Program

pytestmark = pytest.mark.timeout(300)
LATE_MS = 5000
STEP = 4  # tokens: more than the slow model writes between two updates at the best pace
# Records the number of tokens in each update of the answer.
WATCH = """() => {
  window.counts = [];
  const look = () => {
    const count = Number(/writing: (\\d+) tokens/.exec(document.querySelector("#chat-history .live-metadata")?.innerText)?.[1]);
    if (count && count !== window.counts.at(-1)) window.counts.push(count);
  };
  const history = document.querySelector("#chat-history");
  new MutationObserver(look).observe(history, { subtree: true, childList: true, characterData: true });
}"""


def test_a_page_that_draws_late_reports_it_and_receives_fewer_updates(slow_page: Page, slow_server: Program) -> None:
    page = pages.open_chat(slow_page)
    pages.ask_endlessly(page)
    page.evaluate(WATCH)
    page.wait_for_function("() => window.counts.length > 5")

    def says_it_is_late(request: Request) -> bool:
        told = parse_qs(urlsplit(request.url).query)
        return request.url.startswith(f"{slow_server.url}/status") and bool(told["page"]) and int(told["lag_ms"][0]) > LATE_MS / 2

    with page.expect_request(says_it_is_late):
        page.evaluate("late => { const now = performance.now.bind(performance); performance.now = () => now() + late; }", LATE_MS)
    page.wait_for_function("step => window.counts.slice(-6).some((count, i, all) => i && count - all[i - 1] >= step)", arg=STEP)
    pages.stop_button(page).click()
    pages.wait_answered(page)
