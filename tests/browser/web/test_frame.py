"""The demo in a frame of another site's page, in a real Chromium: over HTTPS behind nginx, over plain HTTP, and refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from mllama_demo.images.examples import EXAMPLES_FOLDER
from tests.support.browser import chat_page as pages
from tests.support.nginx import running_nginx
from tests.support.program import running
from tests.support.web_server import Server

pytestmark = pytest.mark.timeout(400)
TLS, PLAIN = "TLS and HTTP/2, with buffering", "plain, without buffering"


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    """Another site: 127.0.0.1, while the demo is at localhost."""
    with closing(Server()) as server:
        yield server


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory, site: Server) -> Iterator[dict[str, str]]:
    options = ("--root-path", "/demo", "--allowed-frame-ancestors", f"http://127.0.0.1:{site.port}")
    with running(tmp_path_factory.mktemp("framed"), *options) as program:
        program.wait_ready()
        with running_nginx(tmp_path_factory.mktemp("nginx"), program.port, "/demo") as addresses:
            yield addresses


@contextmanager
def framed(chromium: Browser, site: Server, address: str) -> Iterator[tuple[BrowserContext, Page]]:
    """A page of the other site with the demo in a frame."""
    html = f'<!doctype html><title>Intranet</title><iframe name="demo" src="{address}" width="1200" height="800"></iframe>'
    site.page("/intranet", html.encode(), Content_Type="text/html; charset=utf-8")
    context = chromium.new_context(ignore_https_errors=True, viewport={"width": 1250, "height": 850})
    try:
        page = context.new_page()
        page.goto(site.url("/intranet", host="127.0.0.1"))
        yield context, page
    finally:
        context.close()


def frame_of(page: Page) -> Any:
    """The frame, for the functions that take a page."""
    frame = page.frame("demo")
    assert frame is not None
    return frame


def ask_about_a_picture(frame: Any) -> None:
    expect(pages.textarea(frame)).to_be_visible()
    pages.paste_file(pages.textarea(frame), Path(EXAMPLES_FOLDER / "dog.png"))
    expect(pages.attached(frame)).to_have_count(1)
    assert pages.ask_and_wait(frame, "What is this?")
    picture = frame.locator("#chat-history .user-row img").first
    expect(picture).to_be_visible()
    assert picture.evaluate("(image) => image.complete && image.naturalWidth > 0")


def test_the_chat_works_in_a_frame_over_https_and_its_visitor_comes_back(
    chromium: Browser, site: Server, addresses: dict[str, str]
) -> None:
    with framed(chromium, site, f"{addresses[TLS]}/") as (context, page):
        ask_about_a_picture(frame_of(page))
        [cookie] = [dict(cookie) for cookie in context.cookies() if cookie.get("name") == "mllama_visitor"]
        assert (cookie["secure"], cookie["sameSite"]) == (True, "None")
        assert cookie["partitionKey"] == "http://127.0.0.1"
        page.reload()
        frame = frame_of(page)
        expect(frame.locator("#conversations")).to_contain_text("What is this?")
        tab = context.new_page()
        tab.goto(f"{addresses[TLS]}/")
        expect(pages.textarea(tab)).to_be_visible()
        expect(tab.locator("#conversations")).not_to_contain_text("What is this?")


def test_the_chat_works_in_a_frame_over_plain_http_as_long_as_its_page(
    chromium: Browser, site: Server, addresses: dict[str, str]
) -> None:
    with framed(chromium, site, f"{addresses[PLAIN]}/") as (context, page):
        ask_about_a_picture(frame_of(page))
        assert "mllama_visitor" not in [cookie.get("name") for cookie in context.cookies()]
        page.reload()
        frame = frame_of(page)
        expect(pages.textarea(frame)).to_be_visible()
        expect(frame.locator("#conversations")).not_to_contain_text("What is this?")


def test_a_site_that_is_not_named_shows_no_frame(chromium: Browser, addresses: dict[str, str]) -> None:
    with closing(Server()) as other, framed(chromium, other, f"{addresses[TLS]}/") as (_, page):
        page.wait_for_function("() => window.frames.length === 1")
        expect(page.frame_locator("iframe").locator("body")).not_to_contain_text("Llama")
        assert frame_of(page).url.startswith("chrome-error:")
