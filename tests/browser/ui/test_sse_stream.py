"""On a slow road what the server says together arrives apart: no answer goes unheard, and no stream stays open for nothing."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import Browsers

pytestmark = pytest.mark.timeout(300)

# The word that a stream ends waits until something more was asked, and the page has had its number for a while.
LATE_ENDS = """(() => {
  const send = window.fetch;
  let numbered = null;
  window.lateEnds = 0;
  window.fetch = async (...args) => {
    const path = new URL(args[0].url ?? args[0], location.href).pathname;
    const response = await send(...args);
    if (path.endsWith("/queue/join")) setTimeout((late) => late?.(), 200, numbered);
    if (!path.endsWith("/queue/data")) return response;
    const late = new TransformStream({
      async transform(piece, out) {
        const end = new TextDecoder("latin1").decode(piece).indexOf('data: {"msg":"close_stream"');
        if (end < 0) return out.enqueue(piece);
        if (end) out.enqueue(piece.slice(0, end));
        await new Promise((done) => (numbered = done));
        window.lateEnds++;
        out.enqueue(piece.slice(end));
      },
    });
    response.body.pipeTo(late.writable).catch(() => {});
    return new Response(late.readable, response);
  };
})();"""

# While window.holding is true what is asked is answered, but the page is not told its number until window.release().
LATE_NUMBERS = """(() => {
  const send = window.fetch;
  window.fetch = async (...args) => {
    const path = new URL(args[0].url ?? args[0], location.href).pathname;
    const response = await send(...args);
    if (path.endsWith("/queue/join") && window.holding) await new Promise((done) => (window.release = done));
    return response;
  };
})();"""


def test_an_answer_to_what_is_asked_while_a_stream_ends_is_heard(page: Page) -> None:
    page.add_init_script(LATE_ENDS)
    pages.open_chat(page)
    assert "Rome" in pages.ask_and_wait(page, "What is the capital of Italy?")
    with pages.settled(page):
        pages.search(page, "Italy")
    assert "Rome" in pages.retry(page)
    assert page.evaluate("window.lateEnds") >= 3


def test_no_stream_is_opened_for_an_answer_that_came_before_its_number(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/queue/" in request.url else None)
    page.add_init_script(LATE_NUMBERS)
    pages.open_chat(page)
    page.evaluate("window.holding = true")
    page.locator("#new-chat").click()
    page.wait_for_function("() => window.release !== undefined")
    page.evaluate("window.holding = false")
    with pages.settled(page):
        assert "Rome" in pages.ask_and_wait(page, "What is the capital of Italy?")
    before = len(asked)
    page.evaluate("window.release()")
    expect(pages.user_rows(page)).to_have_count(0)
    # What the empty chat asks on is asked before a stream is opened for it.
    assert "/queue/data" not in "".join(asked[before : before + 1])


def test_a_stream_that_cannot_go_on_is_a_lost_connection_and_is_found_again(browsers: Browsers, page: Page) -> None:
    for complaint in ("502", "broken off", "errored out"):
        browsers.expect_complaint(complaint)
    page.add_init_script(LATE_ENDS)
    pages.open_chat(page)
    page.route("**/queue/data**", lambda route: route.fulfill(status=502, body="Bad gateway"))
    pages.search(page, "Italy")
    expect(pages.notice(page)).to_contain_text("Connection to the server was lost")
    page.unroute("**/queue/data**")
    expect(pages.notice(page)).to_have_count(0)
    assert "Rome" in pages.ask_and_wait(page, "What is the capital of Italy?")
