"""How the chat page holds up: first paint, ready, and four people at once in conversations of 40 turns.

    python -m benchmarks.chat_load [--people 1 4] [--turns 40] [--tokens 400] [--sessions 12] [--json FILE]

The real program and real browsers, all on this machine, so that the browsers' work counts as well: take figures on an idle one.
Each update of an answer carries the time when the server made it; its lag is how much later the page shows it. "Growth" is the
lag over the last quarter of an answer less that over its first: a page that falls behind shows it there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.first_light import resident_megabytes, show  # noqa: E402

QUESTION = "Tell me a story about what you see"
PICTURES = ("dog.png", "shapes.png", "apples.png", "beach.png")
WHOLE_RUN_S = 900

# Notes, for every update of the last answer that the page shows, when that was and when the server had made it.
WATCH = """() => {
  window.updates = [];
  const look = () => {
    const at = [...document.querySelectorAll("#chat-history .bot-row")].at(-1)?.querySelector(".made-at")?.textContent;
    if (at && at !== window.updates.at(-1)?.[1]) window.updates.push([Date.now() / 1000, at]);
  };
  const history = document.querySelector("#chat-history");
  new MutationObserver(look).observe(history, { subtree: true, childList: true, characterData: true });
}"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime / 1000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, nargs="+", default=[1, 4], help="how many ask at the same time")
    parser.add_argument("--turns", type=int, default=40, help="questions with answers that each conversation has already")
    parser.add_argument("--tokens", type=int, default=400, help="length of the answers that are measured")
    parser.add_argument("--opens", type=int, default=5, help="how often a page is opened for first paint and ready")
    parser.add_argument("--sessions", type=int, default=12, help="pages that are open for the memory of one")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        sys.exit(serve(args.serve))
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), args, figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


def serve(options: list[str]) -> int:
    """The demo, with the time in every update of an answer."""
    import app
    from mllama_demo.ui import history

    live_line = history.live_line

    def dated(*args: Any) -> str:
        return live_line(*args) + f'<span class="made-at unseen">{time.time():.3f}</span>'

    history.live_line = dated
    return app.main(options)


# --- the run -------------------------------------------------------------------------------------------------------------


def measure(scratch: Path, args: argparse.Namespace, figures: dict[str, list[float]]) -> None:
    from playwright.sync_api import sync_playwright

    from tests.support.browser.browsers import Browsers, launch_chromium
    from tests.support.program import Program, free_port, wait_until

    port = free_port()
    options = [
        "--port",
        str(port),
        "--data-dir",
        str(scratch / "data"),
        "--batch-size",
        str(max(args.people)),
        "--seq-len",
        "2048",
    ]
    command = [sys.executable, "-m", "benchmarks.chat_load", "--serve", *options, "--request-time-limit-s", str(WHOLE_RUN_S)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process, sync_playwright() as playwright:
        server = Program(process, f"http://127.0.0.1:{port}", scratch)
        try:
            wait_until(lambda: (answer := server.get("/health")) is not None and answer.status_code == 200, "ready", WHOLE_RUN_S)
            exported = scratch / "conversation.json"
            exported.write_text(conversation(args.turns), encoding="utf-8")
            chromium = launch_chromium(playwright)
            opened(Browsers(chromium, server, counting=False), args.opens, figures)
            for people in args.people:
                answered(Browsers(chromium, server, counting=False), people, exported, args, figures)
            kept_in_memory(Browsers(chromium, server, counting=False), args.sessions, exported, process.pid, figures)
        finally:
            server.interrupt()


def opened(browsers: Any, times: int, figures: dict[str, list[float]]) -> None:
    """From the address to the first paint, and to a question field under a status line that says "Ready"."""
    paints: dict[str, list[float]] = {"new browser": [], "again": []}
    readies: dict[str, list[float]] = {"new browser": [], "again": []}
    for _ in range(times):
        page = browsers.open()
        for kind in paints:
            began = time.perf_counter()
            ready(page)
            readies[kind].append(time.perf_counter() - began)
            paints[kind].append(page.evaluate(PAINT))
            page.goto("about:blank")
        page.context.close()
    for kind in paints:
        show(figures, f"first paint, {kind} (s)", paints[kind])
        show(figures, f"ready to ask, {kind} (s)", readies[kind])


def ready(page: Any, address: str = "/") -> Any:
    """Goes to the page and waits until a question can be asked."""
    from playwright.sync_api import expect

    from tests.support.browser import chat_page as pages

    page.goto(address)
    expect(pages.textarea(page)).to_be_editable()
    expect(page.locator("#status")).to_contain_text("Ready")
    return page


def answered(browsers: Any, people: int, exported: Path, args: argparse.Namespace, figures: dict[str, list[float]]) -> None:
    """All ask at once, each in a browser of his own, in a conversation that is long already."""
    from tests.support.browser import chat_page as pages

    all_pages = [bring_in(ready(browsers.open()), exported, args.turns) for _ in range(people)]
    for page in all_pages:
        page.evaluate(WATCH)
        pages.set_slider(page, "max-tokens", args.tokens)
        pages.set_ignore_eos(page, True)
        pages.textarea(page).fill(QUESTION)
    for page in all_pages:
        pages.submit(page)
    rates, lags, growths, gaps = [], [], [], []
    for page in all_pages:
        page.wait_for_function("() => window.updates.length > 1", timeout=WHOLE_RUN_S * 1000)
        page.wait_for_function(f"() => ({pages.STATE})().answered", timeout=WHOLE_RUN_S * 1000)
        updates = [(shown, float(made)) for shown, made in page.evaluate("window.updates")]
        times = [shown for shown, _ in updates]
        delays = [shown - made for shown, made in updates]
        quarter = max(1, len(delays) // 4)
        rates.append((len(times) - 1) / (times[-1] - times[0]))
        lags.append(statistics.median(delays))
        growths.append(statistics.median(delays[-quarter:]) - statistics.median(delays[:quarter]))
        gaps.append(max(later - earlier for earlier, later in itertools.pairwise(times)))
        speed = re.search(r"([\d.]+) tokens/s", pages.facts(page))
        show(figures, f"tokens/s, one of {people}", [float(speed[1])] if speed else [])
    what = f"{people} at once, {args.turns} turns"
    show(figures, f"updates a second, {what}", rates)
    show(figures, f"lag of an update, {what} (ms)", [lag * 1000 for lag in lags])
    show(figures, f"growth of the lag over an answer, {what} (ms)", [growth * 1000 for growth in growths])
    show(figures, f"longest pause between updates, {what} (ms)", [gap * 1000 for gap in gaps])
    browsers.close()


def kept_in_memory(browsers: Any, sessions: int, exported: Path, pid: int, figures: dict[str, list[float]]) -> None:
    """How much the server grows with each page that is open."""
    first = ready(browsers.open())
    bring_in(first, exported, 1)
    address = first.url
    before, marks = resident_megabytes(pid), []
    for _ in range(sessions):
        page = ready(first.context.new_page(), address)
        page.wait_for_selector("#chat-history .user-row")
        marks.append(resident_megabytes(pid))
    show(figures, "memory of the server for an open page (MB)", [(marks[-1] - before) / sessions])
    browsers.close()


def bring_in(page: Any, exported: Path, turns: int) -> Any:
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
    """An exported conversation: short questions and answers, every tenth question with a picture."""
    from mllama_demo.chat.conversation import ImageRef, Message
    from mllama_demo.chat.export import to_json
    from mllama_demo.chat.message_tree import MessageTree, Node
    from mllama_demo.images.examples import EXAMPLES_FOLDER
    from mllama_demo.images.loading import load_image

    loaded = [load_image((EXAMPLES_FOLDER / name).read_bytes(), name) for name in PICTURES]
    by_digest = {image.digest: image for image in loaded}
    nodes = []
    for index in range(turns):
        picture = loaded[index // 10 % len(loaded)] if index % 10 == 0 else None
        ref = ImageRef(picture.digest, picture.name, picture.width, picture.height) if picture else None
        parent = 2 * index - 1 if index else None
        nodes.append(Node(2 * index, parent, Message("user", f"What is {index} + 4?", ref), True))
        nodes.append(Node(2 * index + 1, 2 * index, Message("assistant", f"{index} + 4 = **{index + 4}**."), True))
    return to_json(MessageTree(tuple(nodes), title=f"{turns} turns"), lambda image: by_digest[image.digest])


if __name__ == "__main__":
    main()
