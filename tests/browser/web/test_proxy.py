"""The demo in a browser, below a path of a real nginx: chat, pictures, Explore, and the way between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from mllama_demo.images.examples import EXAMPLES_FOLDER
from tests.support.browser import chat_page as pages
from tests.support.browser import explore_page as explore
from tests.support.browser.browsers import CALLS
from tests.support.nginx import PLACES, running_nginx
from tests.support.program import running

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with running(tmp_path_factory.mktemp("behind"), "--root-path", "/demo") as program:
        program.wait_ready()
        with running_nginx(tmp_path_factory.mktemp("nginx"), program.port, "/demo") as addresses:
            yield addresses


@pytest.mark.parametrize("place", PLACES)
def test_the_demo_works_behind_nginx(chromium: Browser, addresses: dict[str, str], place: str):
    address = addresses[place]
    context = chromium.new_context(base_url=f"{address}/", ignore_https_errors=True)
    context.add_init_script(path=CALLS)
    page = context.new_page()
    elsewhere: list[str] = []
    page.on("request", lambda asked: None if asked.url.startswith((address, "data:", "blob:")) else elsewhere.append(asked.url))
    try:
        pages.open_chat(page, "./")
        assert pages.ask_and_wait(page, "What is this?", Path(EXAMPLES_FOLDER / "dog.png"))
        picture = page.locator("#chat-history .user-row img").first
        expect(picture).to_be_visible()
        assert picture.evaluate("(image) => image.complete && image.naturalWidth > 0")
        page.get_by_role("link", name="Explore this answer").click()
        page.wait_for_url(f"{address}/explore?*")
        expect(page.locator("#prompt")).to_have_value("What is this?")
        for name in ("temperature", "top_p", "top_k", "seed"):
            page.locator(f"#{name}").fill("1")
        explore.run_and_wait(page, 1)
        page.wait_for_url(f"{address}/explore?run=*")
        page.reload()
        explore.expect_cells(page, 1)
        page.locator("#to-chat").click()
        page.wait_for_url(f"{address}/?*")
        expect(pages.textarea(page)).to_be_visible()
    finally:
        context.close()
    assert elsewhere in ([], [f"{address.removesuffix('/demo')}/favicon.ico"])
