"""On a slow road what the server says together arrives apart: no answer goes unheard, whichever part is late."""

from __future__ import annotations

import pages
import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.timeout(300)

# The word that a stream ends waits until something more was asked, and the page has had its number for a while.
LATE_END = """(() => {
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

# What was asked is answered, and its stream has ended, before the page is told its number.
LATE_NUMBERS = """(() => {
  const send = window.fetch;
  window.lateNumbers = 0;
  window.fetch = async (...args) => {
    const path = new URL(args[0].url ?? args[0], location.href).pathname;
    const response = await send(...args);
    if (path.endsWith("/queue/join")) {
      await new Promise((done) => setTimeout(done, 300));
      window.lateNumbers++;
    }
    return response;
  };
})();"""


@pytest.mark.parametrize(("script", "late"), [(LATE_END, "lateEnds"), (LATE_NUMBERS, "lateNumbers")])
def test_no_answer_goes_unheard(page: Page, script: str, late: str) -> None:
    page.add_init_script(script)
    pages.open_chat(page)
    assert "Rome" in pages.ask_and_wait(page, "What is the capital of Italy?")
    with pages.settled(page):
        pages.search(page, "Italy")
    assert "Rome" in pages.retry(page)
    assert page.evaluate(f"window.{late}") > 3
