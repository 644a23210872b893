"""Pictures of every screen, both themes at three widths, from the running demo: `make screenshots`.

Into docs/images go the few that the documentation shows; every single picture, and an overview of each width to look at, goes to
docs/images/all, which git ignores. Walks through the page as the browser tests do, with their words for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser"), str(ROOT / "tests" / "api")]

import pages  # noqa: E402 (found by the line above, as those below)
from browsers import Browsers  # noqa: E402
from pages import EXAMPLE_IMAGES, SLOW_DEMO  # noqa: E402
from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402
from program import Program, running  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SCREENS = {390: {"width": 390, "height": 844}, 1280: {"width": 1280, "height": 800}, 1920: {"width": 1920, "height": 1080}}
SCHEMES = ("light", "dark")
# What the documentation shows: the name there, and the screen, width and theme that it is made from.
SHOWN = {
    name + ".png": (screen, 1280, "light") for name, screen in (("chat", "answer"), ("explore", "tokens"), ("present", "stage"))
}
PARTS = ("chat", "beside", "queue")
COLOURS = 128
OVERVIEW_WIDTH = 1600
KEYBOARD_HEIGHT = 336  # CSS pixels of a phone's height

DOG, STOP = EXAMPLE_IMAGES / "dog.png", EXAMPLE_IMAGES / "stop.png"
DRAWERS = {"left": "Conversations", "right": "Settings"}
Shoot = Callable[[Page, str], None]


# --- the screens -----------------------------------------------------------------------------------------------------------


def narrow(page: Page) -> bool:
    return (page.viewport_size or {"width": 0})["width"] < pages.WIDE


@contextmanager
def drawer(page: Page, side: str) -> Iterator[None]:
    """With a drawer open, which it always is where there is room for it. side: left or right."""
    toggle = page.get_by_role("button", name=DRAWERS[side], exact=True)
    panel = page.locator(".sidebar").nth(list(DRAWERS).index(side))
    if narrow(page):
        toggle.click()
    expect(panel).to_contain_class("open")
    yield
    if narrow(page):
        toggle.click()
        expect(panel).not_to_contain_class("open")


def chat(page: Page, shoot: Shoot) -> None:
    """A visit from the first screen on, without a queue."""
    pages.open_chat(page)
    shoot(page, "first")
    pages.ask_and_wait(page, "What is in this image? Tell me a story", DOG)
    shoot(page, "answer")
    page.locator("#chat-history .saw").click()
    expect(page.locator("dialog.closeup")).to_be_visible()
    shoot(page, "closeup")
    page.keyboard.press("Escape")
    with drawer(page, "right"):
        shoot(page, "settings")
        pages.open_panel(page, "What the model sees")
        shoot(page, "sight")
        pages.open_panel(page, "What the model sees")
        pages.set_seed(page, "abc")
    pages.textarea(page).fill("What colour is it?")
    pages.submit(page)
    expect(pages.notice(page)).to_be_visible()
    shoot(page, "refused")
    pages.dismiss_notices(page)
    with drawer(page, "right"):
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
    """The list: several, searched, one's menu, one deleted."""
    for question in ("What is the capital of Italy famous for?", "What is 3 + 4?"):
        with drawer(page, "left"), pages.settled(page):
            page.locator("#new-chat").click()
        pages.ask_and_wait(page, question)
    with drawer(page, "left"):
        shoot(page, "conversations")
        pages.search(page, "italy")
        expect(pages.listed(page)).to_have_count(1)
        shoot(page, "search")
        pages.search(page, "")
        expect(pages.listed(page)).to_have_count(3)
        pages.open_panel(page, "This conversation")
        shoot(page, "menu")
        with pages.settled(page):
            page.locator("#delete").click()
        expect(page.locator("#bring-back")).to_be_visible()
        shoot(page, "deleted")


def queue(page: Page, shoot: Shoot) -> None:
    """One slot: an answer being written, a question that waits, and one more than may wait."""
    pages.open_chat(page)
    with drawer(page, "right"):
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
    expect(pages.notice(third)).to_contain_text("busy")
    shoot(third, "full")
    for tab in (second, page):
        pages.stop_button(tab).click()
        pages.wait_answered(tab)
    shoot(page, "stopped")


def beside(page: Page, shoot: Shoot) -> None:
    """The pages beside the chat: a grid with the tokens of one answer, and a scenario on stage."""
    page.goto("/explore")
    expect(page.locator("#estimate")).to_contain_text("cells")
    page.locator("#run").click()
    expect(page.locator("#measures-panel")).to_be_visible()
    shoot(page, "grid")
    page.get_by_role("button", name="Tokens").last.click()
    expect(page.locator("#waterfall h3")).to_contain_text("Token 1:")
    page.locator("#token-panel").evaluate("panel => panel.scrollIntoView()")
    shoot(page, "tokens")
    page.goto("/present/first-look")
    expect(page.locator("#place")).to_have_text("1 / 4")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#figures")).to_contain_text("tokens")
    shoot(page, "stage")


# --- the pictures ----------------------------------------------------------------------------------------------------------


def small(source: Path, target: Path) -> None:
    """Few colours, which a page has anyway, and no metadata."""
    with Image.open(source) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


def overview(files: list[Path], columns: int, target: Path) -> None:
    """All pictures of one width side by side, small."""
    each = OVERVIEW_WIDTH // columns
    shrunk = []
    for file in files:
        with Image.open(file) as picture:
            height = round(each * picture.height / picture.width)
            shrunk.append(picture.convert("RGB").resize((each - 8, height), Image.Resampling.LANCZOS))
    row = max(picture.height for picture in shrunk) + 8
    sheet = Image.new("RGB", (each * columns, row * -(-len(shrunk) // columns)), "#808080")
    for index, picture in enumerate(shrunk):
        sheet.paste(picture, (index % columns * each + 4, index // columns * row + 4))
    sheet.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


def take_all(folder: Path, widths: list[int], schemes: list[str], parts: list[str]) -> None:
    """Every screen as SCREEN-WIDTH-THEME.png below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        home = Path(scratch)

        def visit(server: Program, screens: Callable[[Page, Shoot], None], width: int, scheme: str) -> None:
            def shoot(page: Page, name: str) -> None:
                page.mouse.move(0, 0)
                page.wait_for_function(pages.STILL)
                page.screenshot(path=home / "raw.png", animations="disabled", caret="initial")
                small(home / "raw.png", folder / f"{name}-{width}-{scheme}.png")
                print(f"{name}-{width}-{scheme}.png", flush=True)

            options = {"is_mobile": True, "has_touch": True} if width < pages.WIDE else {}
            browsers = Browsers(playwright, home / f"{screens.__name__}-{width}-{scheme}", server)
            screens(browsers.open(viewport=SCREENS[width], color_scheme=scheme, **options), shoot)
            browsers.close()

        combinations = [(width, scheme) for width in widths for scheme in schemes]
        ordinary = [screens for screens in (chat, beside) if screens.__name__ in parts]
        if ordinary:
            with running(home / "server", tracebacks=True) as server:
                server.wait_ready()
                for width, scheme in combinations:
                    for screens in ordinary:
                        visit(server, screens, width, scheme)
        if "queue" in parts:
            options = ("--batch-size", "1", "--max-waiting", "1")
            with running(home / "slow", *options, tracebacks=True, script=SLOW_DEMO) as server:
                server.wait_ready()
                for width, scheme in combinations:
                    visit(server, queue, width, scheme)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, action="append", choices=SCREENS, help="only this one; may be given again")
    parser.add_argument("--theme", action="append", choices=SCHEMES, help="only this one")
    parser.add_argument("--part", action="append", choices=PARTS, help="only these screens")
    parser.add_argument("--folder", type=Path, default=IMAGES / "all", help="where the single pictures go")
    args = parser.parse_args()
    everything = not (args.width or args.theme or args.part)
    take_all(args.folder, args.width or list(SCREENS), args.theme or list(SCHEMES), args.part or list(PARTS))
    if everything:
        for name, (screen, width, scheme) in SHOWN.items():
            (IMAGES / name).write_bytes((args.folder / f"{screen}-{width}-{scheme}.png").read_bytes())
        for width in SCREENS:
            files = sorted(args.folder.glob(f"*-{width}-*.png"), key=lambda file: file.stat().st_mtime)
            overview(files, 8 if width < pages.WIDE else 4, args.folder / f"screens-{width}.png")


if __name__ == "__main__":
    main()
