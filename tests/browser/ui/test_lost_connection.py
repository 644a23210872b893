"""The connection is lost, or the program dies, while an answer is being written: the page goes on by itself, nothing is lost."""

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
def road(slow_server: Program) -> Iterator[NetworkLink]:
    road = NetworkLink(slow_server.port)
    yield road
    road.close()


def writing_at_the_end_of(browsers: Browsers, road: NetworkLink, server: Program) -> Page:
    """A page that reads a long answer over the road, with a question typed and not sent."""
    for complaint in ("ERR_", "network error", "errored out", "503", "Failed to fetch", "Could not get API info"):
        browsers.expect_complaint(complaint)
    # Gradio's, of updates that were received and not yet drawn when the stream broke.
    browsers.expect_complaint("Unexpected client exception TypeError: Cannot read properties of undefined")
    page = pages.open_chat(browsers.open(replace(server, url=road.url)))
    pages.ask_endlessly(page)
    pages.textarea(page).fill(DRAFT)
    return page


def test_a_lost_connection_is_found_again_and_the_stream_goes_on(
    browsers: Browsers, slow_server: Program, road: NetworkLink
) -> None:
    page = writing_at_the_end_of(browsers, road, slow_server)
    read = pages.last_bot_text(page)
    road.cut()
    expect(pages.notice(page)).to_contain_text("Connection to the server was lost")
    assert pages.last_bot_text(page).startswith(read)
    road.mend()
    expect(pages.notice(page)).to_have_count(0)
    pages.wait_writing(page)
    assert pages.last_bot_text(page).startswith(read)
    assert len(pages.last_bot_text(page)) > len(read)
    expect(pages.textarea(page)).to_have_value(DRAFT)
    pages.stop_button(page).click()
    pages.wait_answered(page)
    assert "stopped by hand" in pages.facts(page)


def test_what_a_killed_program_had_written_is_there_when_it_is_back(browsers: Browsers, tmp_path: Path) -> None:
    home = tmp_path / "demo"
    with running(home, script=SLOW_DEMO) as first:
        first.wait_ready()
        road = NetworkLink(first.port)
        page = writing_at_the_end_of(browsers, road, first)
        early = pages.last_bot_text(page)
        pages.watch_growth(page)
        pages.wait_growth(page, 20)  # over a second and a half, and a draft is kept each second
        first.kill()
        expect(pages.notice(page)).to_contain_text("Connection to the server was lost")
        read = pages.last_bot_text(page)
        pages.bot_rows(page).last.locator("[data-testid=bot]").first.click(trial=True)  # nothing lies over it
        with running(home) as second:
            road.mend(second.port)
            expect(pages.notice(page)).to_have_count(0)
            pages.wait_answered(page)
            kept = pages.last_bot_text(page)
            assert len(kept) > max(10, len(early))
            assert kept.startswith(early)
            # A draft may lack the newest words, and a slow page may not have drawn all that the draft has.
            assert read.startswith(kept) or kept.startswith(read)
            assert "cut off: the demo failed" in pages.facts(page)
            expect(pages.textarea(page)).to_have_value(DRAFT)
            assert pages.retry(page)
            road.close()
