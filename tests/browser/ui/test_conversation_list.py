"""The list of conversations: groups by date, the menu of a row, the phone's drawer, Back and Forward, and the way back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from playwright.sync_api import Page, expect

from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.manual_backend import conversation_of
from tests.support.program import Program

pytestmark = pytest.mark.timeout(300)
LONG = "What is in this image, and who could have drawn it for a book about animals?"
AGES = {"Just now": 0, "A day old": 1, "Some days old": 4, LONG: 4.01, "Very old": 400}


def fill(page: Page, server: Program, count: int = 0) -> dict[str, str]:
    """Gives the visitor of a page conversations of several ages, and `count` recent ones; the id of each title."""
    owner = next(cookie.get("value", "") for cookie in page.context.cookies() if "visitor" in cookie.get("name", ""))
    path = server.home / "data" / "conversations.sqlite3"
    database = Database(f"sqlite:///{path}")
    store, ids = ConversationStore(database), {}
    ages: dict[str, float] = {**{f"Recent {number:02}": 2 for number in range(count)}, **AGES}
    for title, days in ages.items():
        conversation = replace(conversation_of(f"What is {title}?", f"{title} it is."), title=title)
        ids[title] = store.save(owner, conversation).id
        updated = datetime.now(timezone.utc).replace(tzinfo=None) - timedelta(days=days, seconds=len(ids))
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "UPDATE conversations SET updated = ? WHERE id = ?", (f"{updated:%Y-%m-%d %H:%M:%S.%f}", ids[title])
            )
    database.close()
    return ids


@pytest.fixture
def filled(page: Page, server: Program) -> tuple[Page, dict[str, str]]:
    pages.open_chat(page)
    ids = fill(page, server)
    with pages.settled(page):
        page.reload()
    return page, ids


def shows(page: Page, title: str) -> None:
    expect(pages.user_rows(page)).to_have_text([f"What is {title}?"])
    expect(page.locator("#conversations a[aria-current]")).to_have_text(title)
    expect(page).to_have_title(f"{title} · Llama 3.2 Vision")


def test_conversations_are_grouped_by_date_and_back_and_forward_walk_them(filled) -> None:
    page, ids = filled
    long_ago = datetime.now() - timedelta(days=400)
    groups = ["Today", "Yesterday", "Previous 7 days", f"{long_ago:%B %Y}"]
    expect(page.locator("#conversations .group")).to_have_text(groups)
    expect(pages.listed(page)).to_have_text(list(AGES))
    sidebar = page.locator(".sidebar").first.bounding_box()
    for row in page.locator("#conversations li").all():
        box = row.bounding_box()
        assert sidebar is not None
        assert box is not None
        assert box["x"] + box["width"] < sidebar["x"] + sidebar["width"], "a long title is cut, its menu stays in reach"
    for title in ("Just now", "Very old"):
        with pages.settled(page):
            pages.listed(page).filter(has_text=title).click()
        shows(page, title)
    with pages.settled(page):
        page.locator("#new-chat").click()
    expect(page).to_have_title("Llama 3.2 Vision")
    for step, title in (("back", "Very old"), ("back", "Just now"), ("forward", "Very old")):
        with pages.settled(page):
            page.evaluate(f"history.{step}()")
        shows(page, title)
        assert pages.conversation_id(page) == ids[title]
    pages.take_screenshot(page, "conversation-list-desktop")
    pages.choose_row_action(page, "Delete", "Very old")
    expect(pages.user_rows(page)).to_have_count(0)
    with pages.settled(page):
        page.evaluate("history.back()")
    shows(page, "Just now")


def test_another_page_leads_back_to_the_conversation_that_one_came_from(filled) -> None:
    page, ids = filled
    with pages.settled(page):
        pages.listed(page).filter(has_text="A day old").click()
    page.locator("#links").get_by_role("link", name="Explore").click()
    page.wait_for_url("**/explore**")
    with pages.settled(page):
        page.locator("#to-chat").click()
    shows(page, "A day old")
    assert pages.conversation_id(page) == ids["A day old"]
    with pages.settled(page):
        page.locator("#new-chat").click()
    with pages.settled(page):
        page.reload()
    expect(pages.user_rows(page)).to_have_count(0)


def test_the_menu_of_a_row_works_with_the_keyboard(filled) -> None:
    page, _ = filled
    with pages.settled(page):
        pages.listed(page).filter(has_text="Just now").click()
    row = page.locator("#conversations li", has_text="Some days old")
    row.get_by_role("button").focus()
    page.keyboard.press("Enter")
    menu = page.get_by_role("menu")
    expect(menu.get_by_role("menuitem", name="Rename")).to_be_focused()
    expect(page.locator("#conversations .group")).to_have_count(4)
    pages.take_screenshot(page, "row-menu-desktop")
    assert not obstacles(page)
    page.keyboard.press("ArrowUp")
    expect(menu.get_by_role("menuitem", name="Delete")).to_be_focused()
    page.keyboard.press("Escape")
    expect(menu).to_have_count(0)
    expect(row.get_by_role("button")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("Renamed <b>here</b>")
    with pages.settled(page):
        page.keyboard.press("Enter")
    expect(pages.listed(page).filter(has_text="Renamed")).to_have_text("Renamed <b>here</b>")
    expect(page.locator("#conversations .group")).to_have_count(4)
    shows(page, "Just now")
    pages.choose_row_action(page, "Delete", "A day old")
    expect(pages.listed(page)).to_have_count(4)
    shows(page, "Just now")


def test_a_phone_shows_the_open_row_closes_the_drawer_and_has_the_menu(browsers: Browsers, server: Program) -> None:
    page = pages.open_chat(browsers.open(viewport=PHONE, has_touch=True, is_mobile=True))
    ids = fill(page, server, count=201 - len(AGES))
    pages.open_chat(page, f"/?c={ids['Very old']}")
    drawer, toggle = page.locator(".sidebar:not(.right)"), page.get_by_role("button", name="Conversations").first
    toggle.tap()
    expect(drawer).to_contain_class("open")
    expect(pages.listed(page)).to_have_count(200)
    page.get_by_role("button", name="Show older ones").tap()
    expect(pages.listed(page)).to_have_count(201)
    expect(pages.listed(page).last).to_be_focused()
    expect(page.get_by_role("button", name="Show older ones")).to_have_count(0)
    expect(page.locator("#conversations a[aria-current]")).to_be_in_viewport()
    pages.take_screenshot(page, "conversation-list-phone")
    page.locator("#conversations li", has_text="Very old").get_by_role("button").tap()
    expect(page.get_by_role("menuitem")).to_have_count(6)
    pages.take_screenshot(page, "row-menu-phone")
    page.get_by_role("menuitem", name="Share").tap()
    expect(page.locator("#share-dialog")).to_contain_text("Share “Very old”")
    pages.take_screenshot(page, "share-dialog-phone")
    page.locator("#close-share").tap()
    expect(page.locator("#share-dialog")).to_be_hidden()
    with pages.settled(page):
        pages.listed(page).filter(has_text="Recent 00").tap()
    expect(drawer).not_to_contain_class("open")
    expect(pages.user_rows(page)).to_have_text(["What is Recent 00?"])
    toggle.tap()
    expect(drawer).to_contain_class("open")
    with pages.settled(page):
        page.locator("#new-chat").tap()
    expect(drawer).not_to_contain_class("open")
    expect(pages.user_rows(page)).to_have_count(0)
