"""The short recording in README, from the running demo: `make recording` writes docs/images/demo.gif.

The recording shows a question about an image, the answer as it is written, and a grid of sampling values in Explore.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402
from playwright.sync_api import Locator, Page, ViewportSize, expect, sync_playwright  # noqa: E402

from tests.support.browser import chat_page as pages  # noqa: E402 (found by the line above, as those below)
from tests.support.browser.browsers import Browsers, launch_chromium  # noqa: E402
from tests.support.program import running  # noqa: E402

TARGET = ROOT / "docs" / "images" / "demo.gif"
VIEWPORT: ViewportSize = {"width": 1280, "height": 800}
WIDTH = 880  # pixels of the recording
COLOURS = 128
FRAME_MS = 120
HOLD_MS = 1800  # at the end of a step
# Screenshots have no mouse pointer.
POINTER = """
addEventListener("DOMContentLoaded", () => {
  const dot = document.createElement("div");
  dot.style = "position:fixed;z-index:99999;width:22px;height:22px;margin:-11px;border-radius:50%;pointer-events:none;" +
              "background:rgb(234 88 12 / .45);border:2px solid rgb(154 52 18 / .8);left:-50px;top:-50px";
  document.documentElement.append(dot);
  addEventListener("mousemove", ({ x, y }) => Object.assign(dot.style, { left: x + "px", top: y + "px" }));
});
"""


@dataclass
class Recording:
    """The frames so far, each with the milliseconds that it is shown."""

    page: Page
    frames: list[tuple[Image.Image, int]] = field(default_factory=list)
    at: tuple[float, float] = (640.0, 400.0)

    def take_frame(self, ms: int = FRAME_MS) -> None:
        """Adds a frame; a frame like the one before it makes that one longer."""
        with Image.open(io.BytesIO(self.page.screenshot(caret="initial"))) as picture:
            frame = picture.convert("RGB").resize((WIDTH, WIDTH * picture.height // picture.width), Image.Resampling.LANCZOS)
        if self.frames and self.frames[-1][0].tobytes() == frame.tobytes():
            self.frames[-1] = (frame, self.frames[-1][1] + ms)
        else:
            self.frames.append((frame, ms))

    def move_to(self, target: Locator) -> None:
        """Moves the pointer to an element, with some frames on the way."""
        target.scroll_into_view_if_needed()
        box = target.bounding_box()
        assert box is not None
        (x, y), (to_x, to_y) = self.at, (box["x"] + min(box["width"] / 2, 120), box["y"] + box["height"] / 2)
        for step in range(1, 6):
            self.page.mouse.move(x + (to_x - x) * step / 5, y + (to_y - y) * step / 5)
            self.take_frame(60)
        self.at = (to_x, to_y)

    def click(self, target: Locator) -> None:
        """Moves the pointer to an element and clicks it."""
        self.move_to(target)
        self.page.mouse.click(*self.at)
        self.take_frame()

    def watch(self, is_done: str, seconds: float = 60) -> None:
        """Adds frames until the JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(is_done):
            assert time.monotonic() < deadline, is_done
            self.take_frame()
        self.take_frame(HOLD_MS)

    def save(self, target: Path) -> None:
        """Writes the frames as an animated GIF."""
        # One palette for all frames, from a few of them.
        several = [frame for frame, _ in self.frames[:: max(1, len(self.frames) // 8)]]
        montage = Image.new("RGB", (several[0].width, several[0].height * len(several)))
        for index, frame in enumerate(several):
            montage.paste(frame, (0, index * frame.height))
        palette = montage.quantize(COLOURS)
        images = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame, _ in self.frames]
        durations = [ms for _, ms in self.frames]
        images[0].save(target, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)


def record(page: Page) -> Recording:
    pages.open_chat(page)
    recording = Recording(page)
    recording.take_frame(HOLD_MS)
    recording.click(page.locator("#chat-history").get_by_role("button", name="What is in this image? Tell me a story"))
    recording.watch(f"({pages.STATE})().answered")
    page.goto("/explore")
    expect(page.locator("#estimate")).to_contain_text("cells")
    recording.take_frame(HOLD_MS // 2)
    recording.click(page.locator("#run"))
    recording.watch("document.querySelector('#measures-panel')?.checkVisibility() ?? false")
    return recording


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, running(Path(scratch)) as server, sync_playwright() as playwright:
        server.wait_ready()
        browsers = Browsers(launch_chromium(playwright), server)
        page = browsers.open(viewport=VIEWPORT, color_scheme="light")
        page.context.add_init_script(POINTER)
        record(page).save(TARGET)
        browsers.close()
    print(f"{TARGET.relative_to(ROOT)}: {TARGET.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
