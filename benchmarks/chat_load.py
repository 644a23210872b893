"""Measures the chat page: time to the first paint, time until it is ready, and several visitors in long conversations at once.

    python -m benchmarks pages [--visitors 1 4] [--turns 40] [--tokens 400] [--sessions 12] [--json FILE]

The program and the browsers run on this machine, so that the browsers' work counts too: measure on an idle machine. Each
update of an answer carries the time at which the server sent it; the lag of the update is how much later the page shows it. The
growth of the lag is the lag in the last quarter of an answer minus the lag in its first: it shows a page that falls behind.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import write

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.first_light import resident_megabytes, show  # noqa: E402

QUESTION = "Tell me a story about what you see"
IMAGES = ("dog.png", "shapes.png", "apples.png", "beach.png")
RUN_LIMIT_S = 900

# Records, for every update of the last answer, when the page showed it and when the server sent it, in seconds.
RECORD_UPDATES = """() => {
  window.updates = [];
  const record = () => {
    const line = [...document.querySelectorAll("#chat-history .bot-row")].at(-1)?.querySelector(".live-metadata");
    const sent = Number(/sent-(\\d+)/.exec(line?.className)?.[1]) / 1000;
    if (sent && sent !== window.updates.at(-1)?.[1]) window.updates.push([Date.now() / 1000, sent]);
  };
  const history = document.querySelector("#chat-history");
  new MutationObserver(record).observe(history, { subtree: true, childList: true, characterData: true, attributes: true });
}"""
FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime / 1000"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--visitors", type=int, nargs="+", default=[1, 4], help="how many ask at the same time")
    parser.add_argument("--turns", type=int, default=40, help="answered questions that each conversation has before")
    parser.add_argument("--tokens", type=int, default=400, help="length of the answers that are measured")
    parser.add_argument("--opens", type=int, default=5, help="how often a page is opened for first paint and ready")
    parser.add_argument("--sessions", type=int, default=12, help="open pages from which the memory of one is computed")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    args = parser.parse_args()
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), args, figures)
    write(args.json, figures)


# --- the run -------------------------------------------------------------------------------------------------------------


def measure(scratch: Path, args: argparse.Namespace, figures: dict[str, list[float]]) -> None:
    from playwright.sync_api import sync_playwright

    from tests.support.browser.browsers import Browsers, launch_chromium
    from tests.support.program import running

    options = ("--batch-size", str(max(args.visitors)), "--seq-len", "2048", "--request-time-limit-s", str(RUN_LIMIT_S))
    with running(scratch / "demo", *options, preload=False) as server, sync_playwright() as playwright:
        server.wait_ready()
        exported = scratch / "conversation.json"
        exported.write_text(conversation(args.turns), encoding="utf-8")
        chromium = launch_chromium(playwright)
        browsers = lambda: Browsers(chromium, server, counting=False)  # noqa: E731
        measure_opening(browsers(), args.opens, figures)
        for visitors in args.visitors:
            measure_answers(browsers(), visitors, exported, args, figures)
        measure_memory(browsers(), args.sessions, exported, server.process.pid, figures)


def measure_opening(browsers: Any, times: int, figures: dict[str, list[float]]) -> None:
    """The time until the first paint, and until there is a question field below the status "Ready"."""
    paints: dict[str, list[float]] = {"new browser": [], "again": []}
    readies: dict[str, list[float]] = {"new browser": [], "again": []}
    for _ in range(times):
        page = browsers.open()
        for kind in paints:
            began = time.perf_counter()
            open_ready(page)
            readies[kind].append(time.perf_counter() - began)
            paints[kind].append(page.evaluate(FIRST_PAINT))
            page.goto("about:blank")
        page.context.close()
    for kind in paints:
        show(figures, f"first paint, {kind} (s)", paints[kind])
        show(figures, f"ready to ask, {kind} (s)", readies[kind])


def open_ready(page: Any, address: str = "/") -> Any:
    """Goes to the page and waits until a question can be asked."""
    from playwright.sync_api import expect

    from tests.support.browser import chat_page as pages

    page.goto(address)
    expect(pages.textarea(page)).to_be_visible()
    expect(pages.textarea(page)).to_be_editable()
    expect(page.locator("#status")).to_contain_text("Ready")
    return page


def measure_answers(
    browsers: Any, visitors: int, exported: Path, args: argparse.Namespace, figures: dict[str, list[float]]
) -> None:
    """All visitors ask at the same time, each in another browser and in a long conversation."""
    from tests.support.browser import chat_page as pages

    all_pages = [import_conversation(open_ready(browsers.open()), exported, args.turns) for _ in range(visitors)]
    for page in all_pages:
        page.evaluate(RECORD_UPDATES)
        pages.set_slider(page, "max-tokens", args.tokens)
        pages.set_ignore_eos(page, True)
        pages.textarea(page).fill(QUESTION)
    for page in all_pages:
        pages.submit(page)
    rates, lags, growths, gaps = [], [], [], []
    for page in all_pages:
        page.wait_for_function("() => window.updates.length > 1", timeout=RUN_LIMIT_S * 1000)
        page.wait_for_function(f"() => ({pages.STATE})().answered", timeout=RUN_LIMIT_S * 1000)
        updates = page.evaluate("window.updates")
        times = [shown for shown, _ in updates]
        began = time.time() - time.monotonic()  # of the clock that the server, on this machine, sends
        delays = [shown - began - sent for shown, sent in updates]
        quarter = max(1, len(delays) // 4)
        rates.append((len(times) - 1) / (times[-1] - times[0]))
        lags.append(statistics.median(delays))
        growths.append(statistics.median(delays[-quarter:]) - statistics.median(delays[:quarter]))
        gaps.append(max(later - earlier for earlier, later in itertools.pairwise(times)))
        speed = re.search(r"([\d.]+) tokens/s", pages.answer_metadata(page))
        show(figures, f"tokens/s, one of {visitors}", [float(speed[1])] if speed else [])
    what = f"{visitors} at once, {args.turns} turns"
    show(figures, f"updates a second, {what}", rates)
    show(figures, f"lag of an update, {what} (ms)", [lag * 1000 for lag in lags])
    show(figures, f"growth of the lag over an answer, {what} (ms)", [growth * 1000 for growth in growths])
    show(figures, f"longest pause between updates, {what} (ms)", [gap * 1000 for gap in gaps])
    browsers.close()


def measure_memory(browsers: Any, sessions: int, exported: Path, pid: int, figures: dict[str, list[float]]) -> None:
    """The memory that the server needs for each open page."""
    first = open_ready(browsers.open())
    import_conversation(first, exported, 1)
    address = first.url
    before, marks = resident_megabytes(pid), []
    for _ in range(sessions):
        page = open_ready(first.context.new_page(), address)
        page.wait_for_selector("#chat-history .user-row")
        marks.append(resident_megabytes(pid))
    show(figures, "memory of the server for an open page (MB)", [(marks[-1] - before) / sessions])
    browsers.close()


def import_conversation(page: Any, exported: Path, turns: int) -> Any:
    """Imports the conversation, as a visitor would."""
    from playwright.sync_api import expect

    from tests.support.browser import chat_page as pages

    page.locator("#import input[type=file], input#import, #import").first.evaluate("element => element.scrollIntoView()")
    with page.expect_file_chooser() as chooser:
        page.locator("#import").click()
    chooser.value.set_files(exported)
    page.wait_for_function("turns => document.querySelectorAll('#chat-history .user-row').length >= turns", arg=turns)
    expect(pages.stop_button(page)).to_be_hidden()
    return page


def conversation(turns: int) -> str:
    """An exported conversation: short questions and answers, every tenth question with an image."""
    from mllama_demo.chat.conversation import ImageRef, Message
    from mllama_demo.chat.export import to_json
    from mllama_demo.chat.message_tree import MessageTree, Node
    from mllama_demo.images.examples import EXAMPLES_FOLDER
    from mllama_demo.images.loading import load_image

    loaded = [load_image((EXAMPLES_FOLDER / name).read_bytes(), name) for name in IMAGES]
    by_digest = {image.digest: image for image in loaded}
    nodes = []
    for index in range(turns):
        image = loaded[index // 10 % len(loaded)] if index % 10 == 0 else None
        ref = ImageRef(image.digest, image.name, image.width, image.height) if image else None
        parent = 2 * index - 1 if index else None
        nodes.append(Node(2 * index, parent, Message("user", f"What is {index} + 4?", ref), True))
        nodes.append(Node(2 * index + 1, 2 * index, Message("assistant", f"{index} + 4 = **{index + 4}**."), True))
    return to_json(MessageTree(tuple(nodes), title=f"{turns} turns"), lambda image: by_digest[image.digest])
