"""What the tests of the chat ask, and waiting for free slots."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.paths import EXAMPLE_IMAGES
from tests.support.program import Program
from tests.support.waiting import wait_until

CAPITAL = "What is the capital of Italy?"
DOG = EXAMPLE_IMAGES / "dog.png"


def wait_idle(server: Program) -> None:
    wait_until(lambda: server.health()["running"] == 0 and server.health()["waiting"] == 0, "all slots are free again", 60)


def ask_in_a_new_chat(page: Page) -> None:
    """The page is as good as new."""
    with pages.settled(page):
        page.locator("#new-chat").click()
    expect(pages.user_rows(page)).to_have_count(0)
    assert "Rome" in pages.ask_and_wait(page, CAPITAL)
