"""Pictures of every screen, both themes at four widths, from the running demo: `make screenshots`.

Into docs/images go the few that the documentation shows; every single picture, and an overview of each width to look at, goes to
docs/images/all, which git ignores. The screens are in screens.py.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import screens
from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright
from screens import ADMIN_KEY, PASSWORD, ROOT, Shoot

from mllama_demo.config.passwords import hash_password
from tests.support.browser.browsers import Browsers, launch_chromium
from tests.support.browser.chat_page import SLOW_DEMO, STILL, WIDE
from tests.support.program import APP, Program, running

IMAGES = ROOT / "docs" / "images"
SCREENS: dict[int, ViewportSize] = {
    390: {"width": 390, "height": 844},
    1080: {"width": 1080, "height": 1920},  # a screen on its end, as of a kiosk
    1280: {"width": 1280, "height": 800},
    1920: {"width": 1920, "height": 1080},
}
SCHEMES = ("light", "dark")
# The images in the documentation: the name there, and the screen, width and theme of the screenshot.
SHOWN = {
    name + ".png": (screen, 1280, "light")
    for name, screen in (("chat", "answer"), ("explore", "tokens"), ("explore-grid", "grid"), ("present", "stage"))
}
# The functions of screens.py, with the program's options and its script.
BRAND = ("--title", "Harbour Vision", "--brand-color", "#0b5fff", "--brand-footer", "For the harbour office only")
ACCOUNTS = ("--users", f"anna:{hash_password(PASSWORD)}", "--admin-key", ADMIN_KEY, *BRAND)
SERVERS: list[tuple[tuple[Callable[[Page, Shoot], None], ...], tuple[str, ...], Path]] = [
    ((screens.chat, screens.explore, screens.present), (), APP),
    ((screens.queue,), ("--batch-size", "1", "--max-waiting", "1"), SLOW_DEMO),
    ((screens.accounts,), ACCOUNTS, SLOW_DEMO),
    ((screens.kiosk,), ("--config", str(ROOT / "configs" / "event.yaml"), "--kiosk-idle-s", "20"), APP),
]
PARTS = [walk.__name__ for walks, _, _ in SERVERS for walk in walks]
COLOURS = 128
OVERVIEW_WIDTH = 1600


# --- the pictures ----------------------------------------------------------------------------------------------------------


def small(source: Path, target: Path) -> None:
    """Writes an image with few colours and without metadata."""
    with Image.open(source) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


def overview(files: list[Path], columns: int, target: Path) -> None:
    """Writes all screenshots of one width side by side, small."""
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
        chromium = launch_chromium(playwright)
        home = Path(scratch)

        def visit(server: Program, walk: Callable[[Page, Shoot], None], width: int, scheme: str) -> None:
            def shoot(page: Page, name: str) -> None:
                if not page.locator("#kiosk-countdown").is_visible():  # which a touch would end
                    page.mouse.move(0, 0)
                page.wait_for_function(STILL)
                page.screenshot(path=home / "raw.png", animations="disabled", caret="initial")
                small(home / "raw.png", folder / f"{name}-{width}-{scheme}.png")
                print(f"{name}-{width}-{scheme}.png", flush=True)

            options: dict[str, Any] = {"is_mobile": True, "has_touch": True} if width < WIDE else {}
            browsers = Browsers(chromium, server)
            walk(browsers.open(viewport=SCREENS[width], color_scheme=scheme, **options), shoot)
            browsers.close()

        for index, (walks, options, script) in enumerate(SERVERS):
            wanted = [walk for walk in walks if walk.__name__ in parts]
            if not wanted:
                continue
            with running(home / f"server-{index}", *options, tracebacks=True, script=script) as server:
                server.wait_ready()
                for width in widths:
                    for scheme in schemes:
                        for walk in wanted:
                            visit(server, walk, width, scheme)


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
            overview(files, 8 if width < WIDE else 4, args.folder / f"screens-{width}.png")


if __name__ == "__main__":
    main()
