"""On a slow network, messages that the server sends together arrive apart: no answer is lost, and no stream stays open."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import Browsers

pytestmark = pytest.mark.timeout(300)

# Delays close_stream until another event was sent and the page has had the event's id for a while.
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

# While window.holding is true, events are answered, but the page gets their ids only after window.release().
LATE_NUMBERS = """(() => {
  const send = window.fetch;
  window.fetch = async (...args) => {
    const path = new URL(args[0].url ?? args[0], location.href).pathname;
    const response = await send(...args);
    if (path.endsWith("/queue/join") && window.holding) await new Promise((done) => (window.release = done));
    return response;
  };
})();"""


def test_an_event_sent_while_a_stream_ends_is_answered(fresh_page: Page) -> None:
    fresh_page.add_init_script(LATE_ENDS)
    pages.open_chat(fresh_page)
    assert "Rome" in pages.ask_and_wait(fresh_page, "What is the capital of Italy?")
    with pages.settled(fresh_page):
        pages.search(fresh_page, "Italy")
    assert "Rome" in pages.retry(fresh_page)
    assert fresh_page.evaluate("window.lateEnds") >= 3


def test_no_stream_is_opened_for_an_event_that_was_answered_already(fresh_page: Page) -> None:
    asked: list[str] = []
    fresh_page.on("request", lambda request: asked.append(request.url) if "/queue/" in request.url else None)
    fresh_page.add_init_script(LATE_NUMBERS)
    pages.open_chat(fresh_page)
    fresh_page.evaluate("window.holding = true")
    fresh_page.locator("#new-chat").click()
    fresh_page.wait_for_function("() => window.release !== undefined")
    fresh_page.evaluate("window.holding = false")
    with pages.settled(fresh_page):
        assert "Rome" in pages.ask_and_wait(fresh_page, "What is the capital of Italy?")
    before = len(asked)
    fresh_page.evaluate("window.release()")
    expect(pages.user_rows(fresh_page)).to_have_count(0)
    # The events that follow the new chat are sent before a stream is opened for them.
    assert "/queue/data" not in "".join(asked[before : before + 1])


def test_a_stream_that_breaks_off_is_a_lost_connection_and_the_page_reconnects(browsers: Browsers, fresh_page: Page) -> None:
    for complaint in ("502", "broken off", "errored out"):
        browsers.expect_complaint(complaint)
    fresh_page.add_init_script(LATE_ENDS)
    pages.open_chat(fresh_page)
    fresh_page.route("**/queue/data**", lambda route: route.fulfill(status=502, body="Bad gateway"))
    pages.search(fresh_page, "Italy")
    expect(pages.notice(fresh_page)).to_contain_text("Connection to the server was lost")
    fresh_page.unroute("**/queue/data**")
    expect(pages.notice(fresh_page)).to_have_count(0)
    assert "Rome" in pages.ask_and_wait(fresh_page, "What is the capital of Italy?")
