"""When the connection is lost or the program is killed during an answer, the page reconnects and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.browsers import Browsers
from tests.support.browser.chat_page import SLOW_DEMO
from tests.support.network_link import NetworkLink
from tests.support.program import Program, running

pytestmark = pytest.mark.timeout(300)
DRAFT = "Where is the penguin?"


@pytest.fixture
def link(slow_server: Program) -> Iterator[NetworkLink]:
    link = NetworkLink(slow_server.port)
    yield link
    link.close()


def writing_at_the_end_of(browsers: Browsers, link: NetworkLink, server: Program) -> Page:
    """A page that shows a long answer over the link, with a typed question that is not sent."""
    for complaint in ("ERR_", "network error", "errored out", "503", "Failed to fetch", "Could not get API info"):
        browsers.expect_complaint(complaint)
    # Gradio's client reports this for updates that it received and had not drawn when the stream broke.
    browsers.expect_complaint("Unexpected client exception TypeError: Cannot read properties of undefined")
    page = pages.open_chat(browsers.open(replace(server, url=link.url)))
    pages.ask_endlessly(page)
    pages.textarea(page).fill(DRAFT)
    return page


def test_after_a_lost_connection_the_page_reconnects_and_the_answer_goes_on(
    browsers: Browsers, slow_server: Program, link: NetworkLink
) -> None:
    page = writing_at_the_end_of(browsers, link, slow_server)
    read = pages.last_bot_text(page)
    link.cut()
    expect(page.get_by_role("alert").filter(has_text="No connection to the demo")).to_be_visible()
    expect(pages.notice(page)).to_contain_text("Connection to the server was lost")
    assert pages.last_bot_text(page).startswith(read)
    link.mend()
    expect(pages.notice(page)).to_have_count(0)
    pages.wait_writing(page)
    assert pages.last_bot_text(page).startswith(read)
    assert len(pages.last_bot_text(page)) > len(read)
    expect(pages.textarea(page)).to_have_value(DRAFT)
    pages.stop_button(page).click()
    pages.wait_answered(page)
    assert "stopped by hand" in pages.answer_metadata(page)


@pytest.mark.long
def test_the_partial_answer_of_a_killed_program_is_shown_after_its_restart(browsers: Browsers, tmp_path: Path) -> None:
    home = tmp_path / "demo"
    with running(home, script=SLOW_DEMO) as first:
        first.wait_ready()
        link = NetworkLink(first.port)
        page = writing_at_the_end_of(browsers, link, first)
        early = pages.last_bot_text(page)
        pages.watch_growth(page)
        pages.wait_growth(page, 20)  # over a second and a half, and a draft is kept each second
        first.kill()
        expect(pages.notice(page)).to_contain_text("Connection to the server was lost")
        read = pages.last_bot_text(page)
        pages.bot_rows(page).last.locator("[data-testid=bot]").first.click(trial=True)  # nothing lies over it
        with running(home) as second:
            link.mend(second.port)
            expect(pages.notice(page)).to_have_count(0)
            pages.wait_answered(page)
            kept = pages.last_bot_text(page)
            assert len(kept) > max(10, len(early))
            assert kept.startswith(early)
            # A draft may lack the newest words, and a slow page may not have drawn everything in the draft.
            assert read.startswith(kept) or kept.startswith(read)
            assert "cut off: the demo failed" in pages.answer_metadata(page)
            expect(pages.textarea(page)).to_have_value(DRAFT)
            pages.set_ignore_eos(page, False)  # the browser has kept it
            second.wait_ready()  # the page is up before the model
            assert pages.retry(page)
            link.close()
