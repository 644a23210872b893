"""Bringing a picture: drop and paste anywhere, camera and web address, refusals at the picture, phone photos and full size."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.image_files import encode
from tests.support.paths import EXAMPLE_IMAGES

pytestmark = pytest.mark.timeout(300)
DOG = EXAMPLE_IMAGES / "dog.png"
TRANSFER = """(element, [kind, types, name, data, mime, text]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  if (name) transfer.items.add(new File([bytes], name, { type: mime }));
  if (text) transfer.setData("text/plain", text);
  for (const type of types)
    element.dispatchEvent(
      kind === "drop"
        ? new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true })
        : new ClipboardEvent(type, { clipboardData: transfer, bubbles: true, cancelable: true }),
    );
}"""


def drag(place: Locator, *types: str, name: str = "dog.png", data: bytes | None = None, mime: str = "image/png") -> None:
    content = base64.b64encode(DOG.read_bytes() if data is None else data).decode()
    place.evaluate(TRANSFER, ["drop", types, name, content, mime, ""])


def paste(place: Locator, name: str = "", text: str = "") -> None:
    place.evaluate(TRANSFER, ["paste", ["paste"], name, base64.b64encode(DOG.read_bytes()).decode(), "image/png", text])


def refusals(page: Page) -> Locator:
    return page.locator("#attachment-notes p:not(:empty)")


def remove(page: Page, number: int = 0) -> None:
    page.locator("#chat-input").get_by_role("button", name="Remove file").nth(number).click()


def test_a_picture_dropped_anywhere_is_attached_and_an_overlay_says_so(page: Page) -> None:
    pages.open_chat(page)
    overlay = page.locator("#drop-overlay")
    drag(page.locator("#page-title"), "dragenter", "dragover")
    expect(overlay).to_be_visible()
    pages.take_screenshot(page, "drop-desktop")
    drag(page.locator("#page-title"), "dragleave")
    expect(overlay).to_be_hidden()
    drag(page.locator("#settings"), "dragenter", "dragover", "drop")
    expect(overlay).to_be_hidden()
    expect(pages.attached(page)).to_have_count(1)
    pages.textarea(page).fill("What is in this image?")
    pages.submit(page)
    pages.wait_answered(page)
    assert "saw dog.png" in pages.answer_metadata(page)


def test_text_wins_over_its_own_picture_and_a_file_over_its_own_name(page: Page) -> None:
    pages.open_chat(page)
    paste(page.locator("body"), "image.png", text="A table\tfrom a letter")
    expect(pages.textarea(page)).to_have_value("A table\tfrom a letter")
    paste(pages.textarea(page), "image.png", text=" and more")
    expect(pages.textarea(page)).to_have_value("A table\tfrom a letter and more")
    expect(pages.attached(page)).to_have_count(0)
    paste(page.locator("body"), "dog.png", text="file:///home/anna/dog.png")
    expect(pages.attached(page)).to_have_count(1)
    paste(pages.textarea(page), "dog.png")
    expect(pages.attached(page)).to_have_count(2)
    expect(pages.textarea(page)).to_have_value("A table\tfrom a letter and more")


def test_a_file_is_checked_when_it_is_attached_and_refused_at_the_picture(page: Page) -> None:
    pages.open_chat(page)
    jxl = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40)
    drag(page.locator("body"), "drop", name="photo.jxl", data=jxl, mime="application/octet-stream")
    expect(refusals(page)).to_contain_text("photo.jxl")
    expect(refusals(page)).to_contain_text("looks like a JPEG XL image")
    drag(page.locator("body"), "drop", name="dog.png")
    expect(page.locator("#chat-input .thumbnail-small")).to_have_count(2)
    expect(page.locator("#chat-input .thumbnail-small.refused")).to_have_count(1)
    expect(pages.notice(page)).to_have_count(0)
    pages.take_screenshot(page, "refused-attachment-desktop")
    assert not obstacles(page)
    remove(page)
    expect(refusals(page)).to_have_count(0)
    expect(page.locator("#chat-input .thumbnail-small.refused")).to_have_count(0)
    expect(pages.attached(page)).to_have_count(1)


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
def test_a_phone_photo_is_read_whatever_type_the_browser_names(browsers: Browsers, format: str) -> None:
    page = pages.open_chat(browsers.open(viewport=PHONE))
    data = encode(Image.open(DOG).convert("RGB"), format)
    drag(page.locator("body"), "drop", name=f"IMG_0001.{format.lower()}", data=data, mime="application/octet-stream")
    expect(page.locator("#chat-input .thumbnail-small")).to_have_count(1)
    expect(page.locator("#chat-input .thumbnail-small[style*=preview]")).to_have_count(1)
    expect(page.get_by_role("button", name="Take a photo")).to_have_count(1)
    expect(refusals(page)).to_have_count(0)
    pages.take_screenshot(page, f"phone-photo-{format.lower()}")
    pages.textarea(page).fill("What is in this image?")
    pages.submit(page)
    pages.wait_answered(page)
    assert "640 × 480 px" in pages.answer_metadata(page)


def test_camera_and_web_address_stand_beside_the_paper_clip(browsers: Browsers) -> None:
    page = pages.open_chat(browsers.open(viewport=PHONE))
    page.get_by_role("button", name="Picture from a web address").click()
    dialog = page.get_by_role("dialog", name="Picture from a web address")
    field = dialog.get_by_label("Address of an image")
    expect(field).to_be_focused()
    field.fill("http://127.0.0.1/dog.png")
    field.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("cannot be fetched")
    pages.take_screenshot(page, "web-address-phone")
    assert not obstacles(page)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Picture from a web address")).to_be_focused()
    page.get_by_role("button", name="Take a photo").click()
    expect(page.get_by_role("dialog", name="Take a photo")).to_be_visible()
    pages.take_screenshot(page, "camera-phone")


def test_closing_the_camera_ends_it_and_it_can_be_opened_again(page: Page) -> None:
    pages.open_chat(page)
    dialog = page.get_by_role("dialog", name="Take a photo")
    runs = "() => document.querySelector('#camera video').srcObject.active"
    pages.open_camera(page)
    for close in (lambda: dialog.get_by_role("button", name="Close").click(), lambda: page.keyboard.press("Escape")):
        page.wait_for_function(runs)
        page.evaluate(f"() => {{ window.track = {pages.CAMERA_TRACK}; }}")
        close()
        expect(dialog).to_be_hidden()
        page.wait_for_function("() => window.track.readyState === 'ended'")
        page.get_by_role("button", name="Take a photo").click()
    page.wait_for_function(runs)
    page.evaluate(f"() => {{ window.track = {pages.CAMERA_TRACK}; }}")
    page.wait_for_function("() => document.querySelector('#camera video').videoWidth > 0")
    page.locator("#camera").get_by_role("button", name="capture photo").click()
    expect(pages.attached(page)).to_have_count(1)
    page.wait_for_function("() => window.track.readyState === 'ended'")


def test_a_picture_of_the_conversation_opens_in_its_full_size(page: Page, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.open(DOG).convert("RGB").resize((2400, 1800)).save(large)
    pages.open_chat(page)
    pages.ask(page, "What is in this image?", large)
    pages.wait_answered(page)
    page.locator("#chat-history .image-container img").click()
    view = page.get_by_role("dialog")
    picture = view.get_by_role("img")
    expect(picture).to_be_visible()
    assert picture.evaluate("(image) => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [2400, 1800]
    assert picture.evaluate("(image) => image.getBoundingClientRect().width") <= 1280
    pages.take_screenshot(page, "full-size-desktop")
    picture.click()
    assert picture.evaluate("(image) => image.getBoundingClientRect().width") == 2400
    address = urljoin(page.url, picture.get_attribute("src"))
    page.keyboard.press("Escape")
    expect(view).to_have_count(0)
    refused = requests.get(address, timeout=60)  # by somebody else
    assert (refused.status_code, refused.json()["error"]["type"]) == (404, "not_found_error")
