"""The chat page: the first screen, questions, follow-up questions, and sampling values."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import DESKTOP, PHONE, Browsers
from tests.support.browser.chats import CAPITAL, DOG, ask_in_a_new_chat, wait_idle
from tests.support.paths import EXAMPLE_IMAGES
from tests.support.program import Program

pytestmark = pytest.mark.timeout(300)

STOP = EXAMPLE_IMAGES / "stop.png"


# --- the first visit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_first_visit_shows_examples_and_a_question_field_without_scrolling(browsers: Browsers, device: str):
    viewport = DESKTOP if device == "desktop" else PHONE
    scheme = "light" if device == "desktop" else "dark"
    page = pages.open_chat(browsers.open(viewport=viewport, color_scheme=scheme))
    expect(page.locator("body.dark")).to_have_count(0 if scheme == "light" else 1)
    expect(page).to_have_title("Llama 3.2 Vision")
    examples = page.locator("#chat-history").get_by_role("button", name="Select example")
    expect(examples.first).to_be_in_viewport()
    assert examples.count() == 8
    expect(pages.textarea(page)).to_be_in_viewport(ratio=1)
    expect(page.locator("#status")).to_contain_text("Ready")
    assert page.evaluate(
        "(({ scrollWidth, clientWidth }) => scrollWidth <= clientWidth)(document.querySelector('#status .status'))"
    )
    sidebars = page.locator(".sidebar")
    for sidebar in (sidebars.first, sidebars.last):
        expect(sidebar).to_contain_class("open") if device == "desktop" else expect(sidebar).not_to_contain_class("open")
    expect(page.locator("#new-chat")).to_be_in_viewport() if device == "desktop" else None
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= window.innerHeight")
    pages.take_screenshots(page, f"first-visit-{device}")


def test_a_phone_shows_question_answer_and_sidebars(browsers: Browsers):
    page = pages.open_chat(browsers.open(viewport=PHONE))
    pages.ask_and_wait(page, "What is in this image?", DOG)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    expect(pages.textarea(page)).to_be_in_viewport(ratio=1)
    pages.take_screenshots(page, "answer-phone")
    for position, name in enumerate(("Conversations", "Settings")):
        handle = page.get_by_role("button", name=name, exact=True)
        handle.click()
        sidebar = page.locator(".sidebar").nth(position)
        expect(sidebar).to_contain_class("open")
        expect(sidebar.locator("#new-chat, #temperature").first).to_be_in_viewport(ratio=1)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        pages.take_screenshots(page, f"{name.lower()}-phone")
        if name == "Settings":
            page.set_viewport_size({"width": PHONE["width"], "height": 500})
            sidebar.locator(".sidebar-content").evaluate("area => area.scrollTo(0, area.scrollHeight)")
            expect(sidebar.locator("#temperature")).not_to_be_in_viewport(ratio=1)
            expect(sidebar.locator("#settings-title h3")).to_be_in_viewport(ratio=1)
        handle.click()
        expect(sidebar).not_to_contain_class("open")


def test_a_click_on_an_example_is_answered_and_shows_the_image_that_the_model_saw(browsers: Browsers):
    page = pages.open_chat(browsers.open())
    page.locator("#chat-history").get_by_role("button", name="What is in this image? Tell me a story").click()
    pages.wait_answered(page)
    assert "dog" in pages.last_bot_text(page)
    assert "dog.png, 640 × 480 px, 4 tiles" in pages.answer_metadata(page)
    picture = pages.user_rows(page).locator("img")
    expect(picture).to_be_visible()
    assert picture.evaluate("(image) => image.naturalWidth > 0")
    pages.take_screenshots(page, "answer-desktop")


def test_an_example_keeps_the_typed_text_and_the_attached_files(page: Page):
    pages.open_chat(page)
    pages.textarea(page).fill("And what is this?")
    pages.attach(page, STOP)
    page.locator("#chat-history").get_by_role("button", name="What is 3 + 4?").click()
    pages.wait_answered(page)
    expect(pages.textarea(page)).to_have_value("And what is this?")
    expect(pages.attached(page)).to_have_count(1)


def test_a_photo_from_the_camera_is_added_to_the_typed_text_and_the_attached_files(page: Page):
    pages.open_chat(page)
    pages.textarea(page).fill("What do you see?")
    pages.attach(page, STOP)
    pages.take_photo(page)
    expect(pages.attached(page)).to_have_count(2)
    expect(pages.textarea(page)).to_have_value("What do you see?")
    expect(page.locator("#which-image")).to_be_visible()
    pages.submit(page)
    expect(pages.user_rows(page)).to_have_count(1)
    pages.wait_answered(page)
    expect(pages.attached(page)).to_have_count(0)


def test_a_photo_taken_while_an_answer_is_written_does_not_disturb_the_answer(slow_page: Page):
    """Gradio's client then closes the stream of the upload's progress instead of the event stream."""
    page = pages.open_chat(slow_page)
    pages.ask_endlessly(page)
    pages.take_photo(page)
    expect(pages.attached(page)).to_have_count(1)
    pages.stop_button(page).click()
    pages.wait_answered(page)
    pages.submit(page)
    expect(pages.user_rows(page)).to_have_count(2)
    pages.wait_answered(page)


def test_text_typed_while_the_page_is_loading_is_kept(page: Page):
    held: list[Route] = []
    page.route("**/queue/join**", lambda route: held.append(route))
    with pages.settled(page):
        page.goto("/")
        pages.textarea(page).fill("Typed at once")
        while not held:
            page.wait_for_timeout(20)
        page.unroute("**/queue/join**")  # lets those go on that are held
    expect(pages.textarea(page)).to_have_value("Typed at once")


# --- asking --------------------------------------------------------------------------------------------------------------


def test_an_uploaded_image_is_read(page: Page):
    pages.open_chat(page)
    pages.set_greedy(page, True)
    assert "STOP" in pages.ask_and_wait(page, "What does the text say?", STOP)
    assert "stop.png" in pages.answer_metadata(page)
    expect(pages.attached(page)).to_have_count(0)


def test_a_pasted_image_is_seen(page: Page):
    pages.open_chat(page)
    pages.set_greedy(page, True)
    pages.paste_image(page, DOG)
    assert "dog" in pages.ask_and_wait(page, "What is in this image?")


def test_a_question_without_an_image_is_answered(page: Page):
    pages.open_chat(page)
    pages.set_greedy(page, True)
    pages.textarea(page).fill(CAPITAL)
    pages.textarea(page).press("Enter")
    pages.wait_answered(page)
    assert "Rome" in pages.last_bot_text(page)
    assert "no image" in pages.answer_metadata(page)


def test_an_answer_grows_while_it_is_written_and_stop_keeps_what_is_there(slow_page: Page, slow_server: Program):
    pages.open_chat(slow_page)
    pages.watch_growth(slow_page)
    pages.ask_endlessly(slow_page)
    expect(slow_page.locator("#status")).to_contain_text("1 of 4 slots busy")
    pages.wait_growth(slow_page, 5)
    pages.take_screenshot(slow_page, "answering-desktop")
    shown = pages.last_bot_text(slow_page)
    pages.stop_button(slow_page).click()
    pages.wait_answered(slow_page)
    assert "stopped by hand" in pages.answer_metadata(slow_page)
    assert pages.last_bot_text(slow_page).startswith(shown)
    expect(pages.stop_button(slow_page)).to_be_hidden()
    lengths = pages.growth(slow_page)
    assert lengths == sorted(set(lengths))
    assert len(lengths) >= 3
    wait_idle(slow_server)
    pages.take_screenshot(slow_page, "stopped-desktop")
    ask_in_a_new_chat(slow_page)


def test_a_sent_question_does_not_reappear_in_the_field_on_a_slow_device(browsers: Browsers):
    page = pages.open_chat(browsers.open(viewport=PHONE, fresh=True))
    device = page.context.new_cdp_session(page)
    for _ in range(2):
        with pages.settled(page):
            page.locator("#links .new-chat-button").click()
        pages.textarea(page).fill("What is in this image?")
        pages.attach(page, DOG)
        device.send("Emulation.setCPUThrottlingRate", {"rate": 12})
        pages.submit(page)
        expect(pages.user_rows(page)).to_have_count(1)
        pages.wait_answered(page)
        expect(pages.textarea(page)).to_have_value("")
        expect(pages.attached(page)).to_have_count(0)
        expect(page.locator("#which-image")).to_be_hidden()
        device.send("Emulation.setCPUThrottlingRate", {"rate": 1})


def test_text_typed_while_an_answer_is_written_is_kept(slow_page: Page):
    pages.open_chat(slow_page)
    pages.ask_endlessly(slow_page)
    pages.textarea(slow_page).fill("And another thing")
    pages.stop_button(slow_page).click()
    pages.wait_answered(slow_page)
    expect(pages.textarea(slow_page)).to_have_value("And another thing")


def test_retry_shows_another_answer(page: Page):
    pages.open_chat(page)
    pages.set_slider(page, "temperature", 2)
    pages.set_slider(page, "top-p", 1)
    pages.set_seed(page, "1")
    first = pages.ask_and_wait(page, "Tell me a story")
    pages.set_seed(page, "4")
    second = pages.retry(page)
    assert second != first
    assert pages.user_rows(page).count() == 1
    assert pages.bot_rows(page).count() == 1


def test_an_edited_question_is_answered_without_the_messages_that_followed(page: Page):
    pages.open_chat(page)
    pages.set_greedy(page, True)
    pages.ask_and_wait(page, "What is 3 + 4?")
    pages.ask_and_wait(page, "Tell me a story")
    pages.edit(page, CAPITAL)
    pages.wait_answered(page)
    expect(pages.user_rows(page)).to_have_count(1)
    expect(pages.user_rows(page)).to_contain_text(CAPITAL)
    assert "Rome" in pages.last_bot_text(page)


def test_undo_puts_the_question_and_its_image_back(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, CAPITAL)
    pages.ask_and_wait(page, "What does the text say?", STOP)
    with pages.settled(page):
        pages.message_button(page, "Undo").click()
    expect(pages.user_rows(page)).to_have_count(1)
    expect(pages.textarea(page)).to_have_value("What does the text say?")
    expect(pages.attached(page)).to_have_count(1)
    pages.set_greedy(page, True)
    pages.submit(page)
    expect(pages.user_rows(page)).to_have_count(2)
    pages.wait_answered(page)
    assert "STOP" in pages.last_bot_text(page)


def test_a_refused_undo_keeps_the_text_in_the_question_field(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, CAPITAL)
    pages.textarea(page).fill("And of France?")
    with pages.settled(page):
        pages.message_button(page, "Undo").click()
    expect(pages.notice(page)).to_contain_text("send or remove what you typed there first")
    expect(pages.user_rows(page)).to_have_count(1)
    expect(pages.textarea(page)).to_have_value("And of France?")
    expect(pages.user_rows(page)).to_have_text([CAPITAL])


def test_the_newest_image_is_what_the_model_sees(page: Page):
    pages.open_chat(page)
    pages.set_greedy(page, True)
    pages.ask_and_wait(page, "What is in this image?", DOG)
    assert "dog.png" in pages.answer_metadata(page)
    pages.ask_and_wait(page, "What does the text say?", STOP)
    assert "stop.png" in pages.answer_metadata(page)
    pages.ask_and_wait(page, "What is in this image?")
    assert "stop.png" in pages.answer_metadata(page)
    pages.take_screenshot(page, "two-images-desktop")


# --- sampling ------------------------------------------------------------------------------------------------------------


def test_greedy_greys_out_the_sliders_and_repeats_itself(page: Page):
    pages.open_chat(page)
    pages.set_greedy(page, True)
    for name in ("temperature", "top-p", "top-k"):
        expect(page.locator(f"#{name} input[type=range]")).to_be_disabled()
    expect(page.locator("#max-tokens input[type=range]")).to_be_enabled()
    pages.take_screenshot(page, "greedy-desktop")
    first = pages.ask_and_wait(page, "Tell me a story")
    assert pages.retry(page) == first


def test_the_same_seed_gives_the_same_answer(page: Page):
    pages.open_chat(page)
    pages.set_slider(page, "temperature", 1)
    pages.set_seed(page, "7")
    first = pages.ask_and_wait(page, "Tell me a story")
    assert pages.retry(page) == first


def test_a_seed_that_is_no_number_is_refused_and_the_question_is_kept(page: Page):
    pages.open_chat(page)
    pages.set_seed(page, "abc")
    pages.textarea(page).fill(CAPITAL)
    pages.submit(page)
    expect(pages.notice(page)).to_contain_text("Seed must be a whole number")
    expect(pages.textarea(page)).to_have_value(CAPITAL)
    expect(pages.user_rows(page)).to_have_count(0)
    pages.take_screenshot(page, "notice-desktop")
    pages.set_seed(page, "7")
    pages.submit(page)
    pages.wait_answered(page)
    expect(pages.user_rows(page)).to_contain_text(CAPITAL)


def test_a_preset_sets_the_sliders(page: Page):
    pages.open_chat(page)
    pages.set_greedy(page, True)
    pages.choose_preset(page, "Focused")
    expect(page.locator("#top-k input[type=number]")).to_have_value("20")
    assert pages.slider_values(page) == {"temperature": 0.3, "top-p": 0.8, "top-k": 20}
    expect(page.locator("#greedy input")).not_to_be_checked()
    expect(page.locator("#temperature input[type=range]")).to_be_enabled()
