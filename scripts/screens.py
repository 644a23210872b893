"""The screens of the demo: walks through its pages as the browser tests do, with their words for it, and where to take a picture.

Each walk begins in a new browser; `shoot(page, name)` takes the picture.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Page, expect  # noqa: E402

from tests.support.browser import chat_page as pages  # noqa: E402 (found by the line above, as those below)
from tests.support.paths import EXAMPLE_IMAGES  # noqa: E402

KEYBOARD_HEIGHT = 336  # CSS pixels of a phone's height
PASSWORD, ADMIN_KEY = "correct horse", "the-operators-key"
DOG, STOP = EXAMPLE_IMAGES / "dog.png", EXAMPLE_IMAGES / "stop.png"
SIDEBARS = {"left": "Conversations", "right": "Settings"}
Shoot = Callable[[Page, str], None]


def narrow(page: Page) -> bool:
    return (page.viewport_size or {"width": 0})["width"] < pages.WIDE


@contextmanager
def sidebar(page: Page, side: str) -> Iterator[None]:
    """Opens a sidebar for the block; on a wide screen it is open already. side: left or right."""
    toggle = page.get_by_role("button", name=SIDEBARS[side], exact=True)
    panel = page.locator(".sidebar").nth(list(SIDEBARS).index(side))
    if narrow(page):
        toggle.click()
    expect(panel).to_contain_class("open")
    yield
    if narrow(page):
        toggle.click()
        expect(panel).not_to_contain_class("open")


def chat(page: Page, shoot: Shoot) -> None:
    """The chat from the first screen on, without a queue."""
    pages.open_chat(page)
    shoot(page, "first")
    page.get_by_role("button", name="Help and keys").click()
    shoot(page, "help")
    page.keyboard.press("Escape")
    pages.ask_and_wait(page, "What is in this image? Tell me a story", DOG)
    shoot(page, "answer")
    pages.show_tiles(page)
    expect(page.locator("dialog.tile-dialog")).to_be_visible()
    shoot(page, "tiles-enlarged")
    page.keyboard.press("Escape")
    with sidebar(page, "right"):
        shoot(page, "settings")
        pages.open_panel(page, "What the model sees")
        shoot(page, "tiles")
        pages.open_panel(page, "What the model sees")
        pages.set_seed(page, "abc")
    pages.textarea(page).fill("What colour is it?")
    pages.submit(page)
    expect(pages.notice(page)).to_be_visible()
    shoot(page, "refused")
    pages.dismiss_notices(page)
    with sidebar(page, "right"):
        pages.set_seed(page, "")
    pages.submit(page)
    expect(pages.user_rows(page)).to_have_count(2)
    pages.wait_answered(page)
    pages.retry(page)
    shoot(page, "versions")
    pages.attach(page, STOP)
    pages.textarea(page).fill("What does the text say?")
    expect(page.locator("#which-image")).to_be_visible()
    shoot(page, "choice")
    pages.submit(page)
    expect(pages.user_rows(page)).to_have_count(3)
    pages.wait_answered(page)
    shoot(page, "follow-up")
    conversations(page, shoot)
    if narrow(page):
        size = page.viewport_size or {"width": 0, "height": 0}
        page.set_viewport_size({"width": size["width"], "height": size["height"] - KEYBOARD_HEIGHT})
        pages.textarea(page).focus()
        shoot(page, "keyboard")
        page.set_viewport_size({"width": size["width"], "height": size["height"]})


def conversations(page: Page, shoot: Shoot) -> None:
    """The list of conversations: search, menu, deletion; and the page of a shared conversation."""
    for question in ("What is the capital of Italy famous for?", "What is 3 + 4?"):
        with pages.settled(page):
            page.keyboard.press("Alt+n")  # the button in the sidebar closes the sidebar of a narrow screen
        pages.ask_and_wait(page, question)
    with sidebar(page, "left"):
        shoot(page, "conversations")
        pages.search(page, "italy")
        expect(pages.listed(page)).to_have_count(1)
        shoot(page, "search")
        pages.search(page, "")
        expect(pages.listed(page)).to_have_count(3)
        page.locator("#conversations .row-actions").last.click()
        shoot(page, "menu")
        with pages.settled(page):
            page.get_by_role("menuitem", name="Share").click()
        with pages.settled(page):
            page.locator("#share").click()
        link = page.locator("#share-link").locator("input, textarea")
        expect(link).to_have_value(re.compile("/share/"))
        shared = page.context.new_page()
        shared.goto(link.input_value())
        shoot(shared, "shared")
        shared.close()
        page.keyboard.press("Escape")
        pages.choose_row_action(page, "Delete")
        expect(page.locator("#restore")).to_be_visible()
        shoot(page, "deleted")


def queue(page: Page, shoot: Shoot) -> None:
    """One slot: an answer that is being written, a question that waits, and a question that is refused."""
    pages.open_chat(page)
    with sidebar(page, "right"):
        pages.set_ignore_eos(page, True)
        pages.set_slider(page, "max-tokens", 2000)
    pages.ask(page, "Describe this image", EXAMPLE_IMAGES / "shapes.png")
    pages.wait_writing(page)
    pages.watch_growth(page)
    pages.wait_growth(page, 8)
    shoot(page, "writing")
    second, third = (pages.open_chat(page.context.new_page()) for _ in range(2))
    pages.ask(second, "What is in this image?", DOG)
    expect(pages.bot_rows(second)).to_contain_text("Next in line")
    shoot(second, "waiting")
    pages.textarea(third).fill("What is 3 + 4?")
    pages.submit(third)
    expect(third.locator("#chat-history .answer-failure")).to_contain_text("busy")
    shoot(third, "full")
    for tab in (second, page):
        pages.stop_button(tab).click()
        pages.wait_answered(tab)
    shoot(page, "stopped")


def explore(page: Page, shoot: Shoot) -> None:
    """A grid, the tokens of one answer under other values, two answers compared, a link, and the tour."""
    page.goto("/explore")
    expect(page.locator("#estimate")).to_contain_text("cells")
    for name, values in (("temperature", "0, 0.5, 1, 1.5, 2"), ("top_p", "0.3, 0.5, 0.7, 0.9, 1"), ("seed", "1, 2")):
        page.locator(f"#{name}").fill(values)
    expect(page.locator("#estimate")).to_contain_text("50 cells")
    page.locator("#run").click()
    expect(page.locator("#measures-panel")).to_be_visible()
    shoot(page, "grid")
    cells = page.locator("#grid .cell")
    page.locator('[data-cells~="48"]').click()
    page.get_by_role("button", name="Tokens", exact=True).click()
    expect(page.locator("#candidates h5").first).to_contain_text("Token 1:")  # then the page scrolls to the panel
    expect(page.locator("#tokens")).to_be_focused()
    page.locator("#token-1").click()
    expect(page.locator("#candidates h5").first).to_contain_text("Token 2:")
    page.locator("#token-panel").evaluate("panel => panel.scrollIntoView()")
    shoot(page, "tokens")
    page.locator("#whatif-top_k").fill("4")
    expect(page.locator(".cut-line").first).to_be_visible()
    page.locator("#whatif").evaluate("panel => panel.scrollIntoView()")
    shoot(page, "what-if")
    page.get_by_role("button", name="Compare with …").click()
    cells.first.click()
    expect(page.locator("#compare-panel mark").first).to_be_visible()
    page.locator("#compare-panel").evaluate("panel => panel.scrollIntoView()")
    shoot(page, "compare")
    page.get_by_role("button", name="Share").click()
    page.get_by_role("button", name="Create a link").click()
    expect(page.get_by_label("Link", exact=True)).to_be_visible()
    shoot(page, "share")
    page.keyboard.press("Escape")
    page.evaluate("scrollTo(0, 0)")
    page.get_by_role("button", name="Take the tour").click()
    expect(page.locator("#measures-panel")).to_be_visible()
    shoot(page, "tour")


def present(page: Page, shoot: Shoot) -> None:
    """A scenario: rehearsed, on stage, with its notes, and with a recorded answer when there is no other."""
    page.goto("/present")
    shoot(page, "scenarios")
    page.goto("/present/first-look/rehearsal")
    page.get_by_role("button", name="Rehearse").click()
    expect(page.locator("#said")).to_contain_text("The answers are recorded.")
    shoot(page, "rehearsal")
    page.goto("/present/first-look")
    expect(page.locator("#place")).to_have_text("1 / 4")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#figures")).to_contain_text("tokens")
    shoot(page, "stage")
    with page.expect_popup() as opened:
        page.keyboard.press("n")
    notes = opened.value
    notes.set_viewport_size(page.viewport_size or {"width": 1280, "height": 800})
    expect(notes.locator("#place")).to_have_text("1 / 4")
    shoot(notes, "notes")
    notes.close()
    page.keyboard.press("q")
    page.locator("#question").fill("What is in the background?")
    shoot(page, "audience-question")
    page.keyboard.press("Enter")
    expect(page.locator("#figures")).to_contain_text("tokens in")
    shoot(page, "unscripted")
    page.keyboard.press("ArrowLeft")
    page.context.set_offline(True)
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#recorded")).to_be_visible()
    expect(page.locator("#answer")).to_contain_text("apples.")
    shoot(page, "recorded")


def accounts(page: Page, shoot: Shoot) -> None:
    """Sign-in with a brand, and the operator's page during an answer."""
    page.goto("/")
    shoot(page, "login")
    page.get_by_label("Name").fill("anna")
    page.get_by_label("Password").fill(PASSWORD)
    with pages.settled(page):
        page.get_by_role("button", name="Sign in").click()
    expect(pages.textarea(page)).to_be_visible()
    shoot(page, "branded")
    pages.ask_and_wait(page, "What is in this image?", DOG)
    with pages.settled(page):
        pages.message_button(page, "Like").click()
    with sidebar(page, "right"):
        pages.set_ignore_eos(page, True)
        pages.set_slider(page, "max-tokens", 2000)
    pages.ask(page, "Tell me a story")
    pages.wait_writing(page)
    admin = page.context.new_page()
    admin.goto("/admin")
    admin.get_by_label("Key").fill(ADMIN_KEY)
    admin.get_by_role("button", name="Open").click()
    expect(admin.locator("#slots li.busy")).to_have_count(1)
    shoot(admin, "admin")
    admin.close()
    pages.stop_button(page).click()
    pages.wait_answered(page)


def kiosk(page: Page, shoot: Shoot) -> None:
    """A kiosk until its countdown."""
    pages.open_chat(page)
    expect(page.locator("body.kiosk")).to_have_count(1)
    shoot(page, "kiosk")
    pages.ask_and_wait(page, "What is in this image?", DOG)
    expect(page.locator("#kiosk-countdown")).to_be_visible()
    shoot(page, "countdown")
