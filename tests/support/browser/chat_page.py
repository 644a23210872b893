"""What a visitor does on the chat page. The functions wait for conditions, not for time."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Locator, Page, expect

from tests.support.paths import DEMOS, ROOT

SCREENSHOTS = ROOT / "tests" / "browser" / "screenshots"
SLOW_DEMO = DEMOS / "slow_demo.py"
PATIENCE_MS = 60_000
# Playwright otherwise looks at every frame, for which Chromium draws sixty frames a second.
POLL_MS = 50
# From this width on both sidebars are open.
WIDE = 1100
# True when no animation is running. Endless animations do not count.
STILL = "() => document.getAnimations().every((a) => !(a.effect.getComputedTiming().endTime < 2000))"
# Gradio sets a class when the colour scheme changes; the colours begin to change only then.
GRADIO_FOLLOWS = "(dark) => !document.querySelector('.gradio-container') || document.body.classList.contains('dark') === dark"
# The question of ask_endlessly; any question would do.
ENDLESS_QUESTION = "Tell me a story that never ends"

expect.set_options(timeout=PATIENCE_MS)

STATE = """() => {
  const rows = [...document.querySelectorAll("#chat-history .message-row")];
  const stop = document.querySelector("#stop");
  const bot = rows.filter((row) => row.classList.contains("bot-row"));
  return {
    users: rows.filter((row) => row.classList.contains("user-row")).length,
    bots: bot.length,
    answered: rows.length > 0 && rows.at(-1) === bot.at(-1) && bot.at(-1).querySelector(".answer-metadata") !== null,
    stop: stop !== null && stop.offsetParent !== null,
  };
}"""


# --- opening ---------------------------------------------------------------------------------------------------------------


@contextmanager
def settled(page: Page) -> Iterator[None]:
    """On exit, waits until the server has answered all events of the block, and the events that followed them."""
    since = page.evaluate("window.calls?.now()")
    yield
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not _is_settled(page, since):
        assert time.monotonic() < deadline, page.evaluate("window.calls.inWords()")
        page.wait_for_timeout(POLL_MS)


def _is_settled(page: Page, since: dict[str, Any] | None) -> bool:
    try:
        return page.evaluate("(since) => window.calls.settled(since)", since)
    except Error as error:
        if "Execution context was destroyed" in error.message:  # another page is being loaded
            return False
        raise


def open_chat(page: Page, address: str = "/") -> Page:
    """Opens the page and waits until it shows its conversation."""
    with settled(page):
        page.goto(address)
    expect(textarea(page)).to_be_visible()
    return page


def take_screenshot(page: Page, name: str) -> None:
    """Saves a screenshot for people to look at, when no animation is running."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.wait_for_function(STILL)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def both_schemes(page: Page) -> Iterator[str]:
    """Shows the page in dark and then in light, which is what pages are opened in, each time until no colour changes any more."""
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(GRADIO_FOLLOWS, arg=scheme == "dark")
        page.wait_for_function(STILL)
        yield scheme


def take_screenshots(page: Page, name: str) -> None:
    """Saves a screenshot in dark and one in light."""
    for scheme in both_schemes(page):
        take_screenshot(page, f"{name}-{scheme}")


def conversation_id(page: Page) -> str:
    """The conversation's id from the address, when it is there."""
    page.wait_for_url("**/?*c=*")
    return page.url.split("c=")[1].split("&")[0]


# --- asking ----------------------------------------------------------------------------------------------------------------


def textarea(page: Page) -> Locator:
    return page.locator("#chat-input textarea")


def attached(page: Page) -> Locator:
    """Thumbnails of the files attached to the question that is being written."""
    return page.locator("#chat-input .thumbnails img")


def attach(page: Page, path: Path) -> None:
    """Attaches a file with the upload button."""
    with page.expect_file_chooser() as chooser:
        page.get_by_test_id("upload-button").click()
    with page.expect_response(lambda response: "/upload" in response.url and response.request.method == "POST"):
        chooser.value.set_files(path)
    expect(attached(page)).to_have_count(1)


CAMERA_TRACK = "document.querySelector('#camera video').srcObject.getTracks()[0]"


def open_camera(page: Page) -> None:
    """Opens the browser's fake camera and waits for its picture."""
    page.get_by_role("button", name="Take a photo").click()
    page.locator("#camera").get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("() => document.querySelector('#camera video')?.currentTime > 0")


def take_photo(page: Page) -> None:
    """Takes a photo with the browser's fake camera."""
    open_camera(page)
    page.locator("#camera").get_by_role("button", name="capture photo").click()


def paste_image(page: Page, path: Path) -> None:
    """Pastes a file as a copied image."""
    paste_file(textarea(page), path)
    expect(attached(page)).to_have_count(1)


def paste_file(field: Locator, path: Path, text: str = "") -> None:
    """Pastes a file as a copied image into any field. text: what the clipboard has beside the image."""
    data = base64.b64encode(path.read_bytes()).decode()
    field.evaluate(
        """(element, [data, name, text]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const clipboard = new DataTransfer();
          if (text) clipboard.setData("text/plain", text);
          clipboard.items.add(new File([bytes], name, { type: "image/png" }));
          element.dispatchEvent(new ClipboardEvent("paste", { clipboardData: clipboard, bubbles: true, cancelable: true }));
        }""",
        [data, path.name, text],
    )


def submit(page: Page) -> None:
    page.get_by_test_id("submit-button").click()


def ask(page: Page, text: str, image: Path | None = None) -> None:
    """Sends a question and waits until it is in the history."""
    before = user_rows(page).count()
    textarea(page).fill(text)
    if image is not None:
        attach(page, image)
    submit(page)
    expect(user_rows(page)).to_have_count(before + 1)


def ask_and_wait(page: Page, text: str, image: Path | None = None) -> str:
    """Sends a question and returns its complete answer."""
    ask(page, text, image)
    wait_answered(page)
    return last_bot_text(page)


def ask_endlessly(page: Page) -> None:
    """Starts an answer that goes on until the context is full, with any model; returns when it has begun.

    On the slow server that takes minutes. Drawn at random, since the likeliest token after the end may be another end. The next
    question is greedy and ends.
    """
    set_greedy(page, False)
    set_slider(page, "temperature", 1)
    set_slider(page, "max-tokens", 2000)
    set_ignore_eos(page, True)
    ask(page, ENDLESS_QUESTION)
    set_ignore_eos(page, False)
    set_greedy(page, True)
    wait_writing(page)


def stop_button(page: Page) -> Locator:
    return page.locator("#stop")


def wait_writing(page: Page) -> None:
    """Waits for the first words of the answer."""
    expect(page.locator("#chat-history .bot-row").last).not_to_be_empty()
    expect(page.locator("#chat-history .progress")).to_have_count(0)
    expect(stop_button(page)).to_be_visible()


def wait_answered(page: Page) -> None:
    """Waits until the last question has its complete answer and the page shows it."""
    page.wait_for_function(
        f"() => {{ const s = ({STATE})(); return s.answered && s.users === s.bots && !s.stop; }}", polling=POLL_MS
    )


# --- the history -----------------------------------------------------------------------------------------------------------


def user_rows(page: Page) -> Locator:
    return page.locator("#chat-history .user-row")


def bot_rows(page: Page) -> Locator:
    return page.locator("#chat-history .bot-row")


def last_bot_text(page: Page) -> str:
    """The text of the last answer, without the metadata and arrows under it."""
    texts = bot_rows(page).last.get_by_test_id("bot")
    return "\n".join(
        texts.evaluate_all(
            """(all) => all.filter((e) => !e.querySelector(".answer-metadata, .live-metadata, .versions, .text-actions"))
              .map((e) => e.innerText)"""
        )
    ).strip()


def answer_metadata(page: Page) -> str:
    """The facts of the last answer, also those that are not open."""
    return page.locator("#chat-history .answer-metadata").last.text_content() or ""


def show_tiles(page: Page) -> None:
    """Shows what the model saw of the image of the last answer."""
    facts = page.locator("#chat-history .answer-metadata").last
    if page.locator("body.kiosk").count() == 0:
        facts.locator("summary").click()
    facts.get_by_role("button", name="What the model saw").click()


def message_button(page: Page, name: str) -> Locator:
    """The last button with this name under a message: Retry, Undo, Edit."""
    return page.locator("#chat-history").get_by_role("button", name=name, exact=True).last


def edit(page: Page, text: str) -> None:
    """Edits the first question of the conversation and sends it."""
    user_rows(page).first.get_by_role("button", name="Edit", exact=True).click()
    editor = page.get_by_role("form", name="Edit the question")
    editor.get_by_role("textbox").fill(text)
    with settled(page):
        editor.get_by_role("button", name="Save and ask").click()


def retry(page: Page) -> str:
    """Retries the last answer and returns the new one."""
    with settled(page):
        message_button(page, "Retry").click()
    wait_answered(page)
    return last_bot_text(page)


def watch_growth(page: Page) -> None:
    """Starts to record the lengths of the last answer."""
    page.evaluate(
        """() => {
          window.lengths = [];
          const look = () => {
            const text = [...document.querySelectorAll("#chat-history .bot-row")].at(-1)?.querySelector("[data-testid=bot]");
            if (!text || text.querySelector(".progress, .answer-metadata")) return;
            const length = text.innerText.trim().length;
            if (length && length !== window.lengths.at(-1)) window.lengths.push(length);
          };
          const history = document.querySelector("#chat-history");
          new MutationObserver(look).observe(history, { subtree: true, childList: true, characterData: true });
        }"""
    )


def growth(page: Page) -> list[int]:
    return page.evaluate("window.lengths")


def wait_growth(page: Page, more: int) -> None:
    """Waits until the answer has grown `more` times from now."""
    page.wait_for_function("target => window.lengths.length >= target", arg=len(growth(page)) + more, polling=POLL_MS)


def select_version(page: Page, step: str, what: str) -> None:
    """Presses an arrow under the last answer. step: Previous or Next. what: question or answer."""
    with settled(page):
        page.locator("#chat-history").get_by_role("button", name=f"{step} version of the {what}").last.click()


def version_number(page: Page) -> str:
    """The position among the versions under the last answer that has several, such as "1 / 2"."""
    return page.locator("#chat-history .version-number").last.inner_text()


# --- the sidebars -----------------------------------------------------------------------------------------------------------


def set_slider(page: Page, name: str, value: float) -> None:
    number = page.locator(f"#{name} input[type=number]")
    number.fill(str(value))
    number.press("Tab")
    expect(page.locator(f"#{name} input[type=range]")).to_have_value(str(value))


def slider_values(page: Page) -> dict[str, float]:
    names = ("temperature", "top-p", "top-k")
    return {name: float(page.locator(f"#{name} input[type=number]").input_value()) for name in names}


def set_greedy(page: Page, on: bool) -> None:
    page.locator("#greedy input").set_checked(on)
    expect(page.locator("#temperature input[type=range]")).to_be_enabled(enabled=not on)


def set_ignore_eos(page: Page, on: bool) -> None:
    """Whether an answer continues after the model's end-of-turn token."""
    page.locator("#ignore-eos input").set_checked(on)


def set_seed(page: Page, seed: str) -> None:
    box = page.locator("#seed").locator("input, textarea")
    box.fill(seed)
    box.press("Tab")


def choose_preset(page: Page, name: str) -> None:
    page.locator("#preset input").click()
    page.get_by_role("option", name=name).click()


def open_panel(page: Page, title: str) -> None:
    """Unfolds an accordion."""
    page.get_by_role("button", name=title).click()


def listed(page: Page) -> Locator:
    """The conversations in the left sidebar."""
    return page.locator("#conversations a")


def choose_row_action(page: Page, action: str, title: str = "") -> None:
    """Chooses from the menu of a row. title: words of the row; without them, the row of the conversation on the page."""
    rows = page.locator("#conversations li")
    row = rows.filter(has_text=title) if title else rows.filter(has=page.locator("a[aria-current]"))
    row.hover()
    row.get_by_role("button").click()
    with nullcontext() if action == "Rename" else settled(page):  # Rename asks the server for nothing yet
        page.get_by_role("menuitem", name=action).click()


def open_share_dialog(page: Page) -> None:
    """Opens the dialog that shares the conversation on the page."""
    choose_row_action(page, "Share")
    expect(page.locator("#share-dialog")).to_be_visible()


def search(page: Page, words: str) -> None:
    page.locator("#search").locator("input, textarea").fill(words)


def notice(page: Page) -> Locator:
    """The newest notice in the corner."""
    return page.get_by_test_id("toast-body").last


def covered(page: Page, selector: str) -> list[str]:
    """The visible elements over whose middle something else lies."""
    return page.evaluate(
        """(selector) => [...document.querySelectorAll(selector)].filter((element) => {
          const box = element.getBoundingClientRect();
          const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
          return element.checkVisibility() && top && !element.contains(top) && !top.contains(element);
        }).map((element) => element.outerHTML)""",
        selector,
    )


def dismiss_notices(page: Page) -> None:
    notices = page.get_by_test_id("toast-body")
    while left := notices.count():
        page.get_by_test_id("toast-close").first.click()
        expect(notices).not_to_have_count(left)
