"""Style sheets and scripts against defects of Gradio: each test fails without the patch that names it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.paths import EXAMPLE_IMAGES

pytestmark = pytest.mark.timeout(300)

ROOT_FONT = "() => parseFloat(getComputedStyle(document.documentElement).fontSize)"

COUNT_FRAMES = """
  const original = window.requestAnimationFrame;
  window.asked = 0;
  window.requestAnimationFrame = (callback) => { window.asked++; return original.call(window, callback); };
  window.askedDuring = (frames) => new Promise((done) => {
    const before = window.asked;
    const next = () => (frames-- ? original(next) : done(window.asked - before));
    next();
  });
"""


def test_a_page_on_which_nothing_happens_asks_for_no_frames(fresh_page: Page) -> None:
    fresh_page.add_init_script(COUNT_FRAMES)
    pages.open_chat(fresh_page)
    fresh_page.wait_for_function("async () => (await window.askedDuring(60)) < 20", polling=100)


def test_the_root_font_grows_with_the_screen(page: Page) -> None:
    pages.open_chat(page)
    sizes = []
    for width in (1280, 1920, 3840):
        page.set_viewport_size({"width": width, "height": 800})
        sizes.append(page.evaluate(ROOT_FONT))
    assert sizes[0] == 16
    assert sizes == sorted(set(sizes)), "each is larger than the one before"
    assert sizes[-1] == 24


def test_the_chatbot_has_no_clear_and_no_share_button(page: Page) -> None:
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is in this image?", EXAMPLE_IMAGES / "dog.png")
    page.locator("#chat-history .image-frame").hover()
    for name in ("Clear", "Share"):
        buttons = page.locator(f'#chat-history button:is([aria-label="{name}"], [title="{name}"])')
        expect(buttons.first).to_be_attached()
        assert not any(button.is_visible() for button in buttons.all()), name


def test_the_placeholder_of_the_question_field_stays_on_one_line(page: Page) -> None:
    pages.open_chat(page)
    assert pages.textarea(page).evaluate("field => getComputedStyle(field, '::placeholder').whiteSpace") == "nowrap"
    page.set_viewport_size({"width": 240, "height": 800})
    page.set_viewport_size({"width": 1280, "height": 800})
    one_line = pages.textarea(page).evaluate("field => parseFloat(getComputedStyle(field).lineHeight) * 2")
    assert pages.textarea(page).evaluate("field => field.offsetHeight") < one_line
