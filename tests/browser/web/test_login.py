"""Sign-in in a browser: one's own conversations on every device, and no access after signing out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.support.accounts import PASSWORD, users
from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.program import Program, running

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The demo with two users, one of them an admin, and a brand."""
    brand = ("--title", "Harbour Vision", "--brand-color", "#0b5fff", "--brand-footer", "For the harbour office only")
    with running(tmp_path_factory.mktemp("login"), "--users", users("anna", "ben"), "--admins", "anna", *brand) as program:
        program.wait_ready()
        yield program


def sign_in(page: Page, name: str, address: str = "/") -> None:
    page.goto(address)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    with pages.settled(page):
        page.get_by_role("button", name="Sign in").click()
    expect(pages.textarea(page)).to_be_visible()


def test_a_user_has_the_same_conversations_on_every_device_and_no_other_user_has_them(browsers: Browsers):
    laptop = browsers.open()
    laptop.goto("/")
    expect(laptop.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(laptop.locator("header")).to_contain_text("Harbour Vision")
    expect(laptop.locator("footer")).to_contain_text("For the harbour office only")
    sign_in(laptop, "anna")
    expect(laptop.locator("#brand-footer")).to_contain_text("For the harbour office only")
    pages.ask_and_wait(laptop, "What is it?")
    address = f"/?c={pages.conversation_id(laptop)}"

    phone = browsers.open(viewport=PHONE)
    sign_in(phone, "anna", address)
    expect(pages.user_rows(phone)).to_have_count(1)

    other = browsers.open()
    sign_in(other, "ben", address)
    expect(pages.user_rows(other)).to_have_count(0)
    expect(pages.listed(other)).to_have_count(0)


def test_the_sidebar_says_who_is_signed_in_and_shows_an_admin_the_way_to_the_operators_page(browsers: Browsers):
    browsers.expect_complaint("AbortError|Connection errored out")  # Gradio's, of the stream that ends as the page is left
    page = browsers.open()
    sign_in(page, "anna")
    account = page.locator("#account")
    expect(account).to_contain_text("Signed in as anna")
    account.get_by_role("link", name="Operator’s page").click()
    expect(page.locator("header")).to_contain_text("Signed in as anna")
    expect(page.get_by_role("heading", name="Live")).to_be_visible()
    other = browsers.open()
    sign_in(other, "ben")
    expect(other.locator("#account")).to_contain_text("Signed in as ben")
    expect(other.locator("#account").get_by_role("link")).to_have_text(["Sign out"])
    pages.take_screenshot(other, "signed-in")


def test_after_a_wrong_password_the_name_is_still_filled_in(browsers: Browsers):
    browsers.expect_complaint("status of 401")
    page = browsers.open()
    page.goto("/")
    assert not obstacles(page)
    pages.take_screenshots(page, "login")
    page.get_by_label("Name").fill("anna")
    page.get_by_label("Password").fill("battery staple")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("That name and password do not belong together.")
    expect(page.get_by_label("Name")).to_have_value("anna")
    expect(page.get_by_label("Password")).to_have_value("")
    assert not obstacles(page)


def test_a_page_left_open_says_that_its_visitor_has_signed_out_and_hides_the_conversation(browsers: Browsers):
    browsers.expect_complaint("AbortError|Connection errored out|status of 401")
    page = browsers.open()
    sign_in(page, "anna")
    pages.ask_and_wait(page, "What is it?")
    pages.textarea(page).fill("And now?")
    tab = page.context.new_page()
    tab.goto("/logout")
    tab.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("alert").filter(has_text="You are signed out.")).to_be_visible()
    for part in (pages.user_rows(page), pages.textarea(page), pages.listed(page).first, page.locator("#status")):
        expect(part).to_be_hidden()
    page.get_by_role("link", name="Sign in").click()
    with pages.settled(page):
        sign_in(page, "anna", page.url)
    expect(pages.user_rows(page)).to_have_count(1)
    expect(pages.textarea(page)).to_have_value("And now?")


def test_sign_out_takes_two_clicks_and_going_back_shows_no_conversation(browsers: Browsers):
    browsers.expect_complaint("AbortError|Connection errored out")  # Gradio's, of the stream that ends as the page is left
    page = browsers.open()
    sign_in(page, "anna")
    page.get_by_role("link", name="Sign out").click()
    expect(page.locator("main")).to_contain_text("You are signed in as anna.")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto("/")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
