"""A kiosk: no settings, a fresh start when nobody is there, and an end to questions."""

from __future__ import annotations

from collections.abc import Iterator

import pages
import pytest
from browsers import Browsers
from playwright.sync_api import expect
from program import Program, running

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def kiosk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    options = ("--kiosk", "true", "--kiosk-idle-s", "15", "--kiosk-messages-per-hour", "1")
    with running(tmp_path_factory.mktemp("kiosk"), *options) as program:
        program.wait_ready()
        yield program


def test_a_kiosk_limits_and_forgets(browsers: Browsers, kiosk: Program):
    browsers.expect_complaint("AbortError|Connection errored out")  # the page is left while something is still asked for
    page = pages.open_chat(browsers.open(kiosk))
    expect(page.locator("body.kiosk")).to_have_count(1)
    expect(page.locator("#settings")).to_be_hidden()
    assert "dog" in pages.ask_and_wait(page, "What is in this image?", pages.EXAMPLE_IMAGES / "dog.png")
    pages.textarea(page).fill("And now?")
    pages.submit(page)
    expect(pages.notice(page)).to_contain_text("You have asked 1 question")
    pages.dismiss_notices(page)
    expect(pages.user_rows(page)).to_have_count(0)
    assert "c=" not in page.url
    page.reload()
    expect(pages.listed(page)).to_have_count(0)
