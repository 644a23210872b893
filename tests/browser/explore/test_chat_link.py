# pyright: reportOptionalMemberAccess=false
"""Between chat and Explore: an answer is explored, an answer of a run is used in the chat, and a run is sent to a colleague."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import Browsers
from tests.support.browser.chats import DOG
from tests.support.browser.explore_page import (
    expect_cells,
    exported,
    fill,
    open_explore,
    open_tokens,
    press,
    run_and_wait,
    text_of,
)

pytestmark = pytest.mark.timeout(400)


def test_an_answer_of_the_chat_is_explored_and_used_in_the_chat_again(page: Page):
    pages.open_chat(page)
    pages.set_slider(page, "temperature", 1.2)
    pages.ask_and_wait(page, "What is in this image?", DOG)
    answer = pages.ask_and_wait(page, "Tell me a story about it")
    links = page.locator("#chat-history .explore-link a")
    expect(links).to_have_count(2)
    links.last.click()
    page.wait_for_url("**/explore?conversation=*")
    expect(page.locator("#prompt")).to_have_value("Tell me a story about it")
    expect(page.locator("#history summary")).to_have_text("After a conversation of 2 messages")
    expect(page.locator("#thumbnails .upload")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#temperature")).to_have_value("1.2")
    run_and_wait(page, 1)
    run = exported(page)
    assert run["cells"][0]["text"].strip() == answer, "the same prompt, values and seed give the same answer"
    assert (run["image"]["name"], [turn["image"] for turn in run["grid"]["history"]]) == ("dog.png", [True, False])
    seed = run["grid"]["seed"][0]

    fill(page, temperature="0.3", top_p="0.75", top_k="20", max_tokens="77")
    run_and_wait(page, 1)
    explored = text_of(page, 0)
    with pages.settled(page):
        press(page, 0, "Use in chat")
        page.wait_for_url("**/?c=*")
    assert pages.last_bot_text(page) == explored
    expect(pages.user_rows(page)).to_have_count(2)
    expect(pages.user_rows(page).first.locator("img")).to_be_visible()
    expect(page.locator("#temperature input[type=number]")).to_have_value("0.3")
    assert pages.slider_values(page) == {"temperature": 0.3, "top-p": 0.75, "top-k": 20}
    expect(page.locator("#seed").locator("input, textarea")).to_have_value(str(seed))
    expect(page.locator("#max-tokens input[type=number]")).to_have_value("77")
    assert pages.ask_and_wait(page, "And then?"), "the conversation goes on"


def test_a_run_has_an_address_and_a_link_for_a_colleague(page: Page, browsers: Browsers):
    browsers.expect_complaint("404|410")
    open_explore(page)
    fill(page, prompt="What is it?", temperature="0, 2", top_p="1", seed="4", max_tokens="8")
    run_and_wait(page, 2)
    texts = [text_of(page, index) for index in (0, 1)]
    address = page.url
    assert address.endswith(f"/explore?run={exported(page)['id']}")
    page.goto("/explore")
    page.goto(address)
    expect_cells(page, 2)
    expect(page.locator("#temperature")).to_have_value("0, 2")
    assert [text_of(page, index) for index in (0, 1)] == texts

    page.get_by_role("button", name="Share").click()
    page.get_by_role("button", name="Create a link").click()
    link = page.get_by_label("Link", exact=True)
    expect(link).to_have_value(re.compile("/share/run/"))
    assert not obstacles(page)
    colleague = browsers.open()
    colleague.goto(link.input_value())
    expect(colleague.locator("article")).to_have_count(2)
    assert not obstacles(colleague)
    colleague.get_by_role("link", name="Open in Explore").click()
    expect_cells(colleague, 2)
    assert [text_of(colleague, index) for index in (0, 1)] == texts
    open_tokens(colleague, 1)
    expect(colleague.get_by_role("button", name="Continue from")).to_have_count(0)
    expect(colleague.locator(".detail").get_by_role("button", name="Repeat")).to_have_count(0)
    expect(colleague.locator("#runs")).to_contain_text("None yet")
    colleague.get_by_role("button", name="Save a copy").click()
    expect(colleague.locator("#runs li .link")).to_have_text(["What is it?", "Rename", "Delete"])

    page.get_by_role("button", name="Stop sharing").click()
    expect(page.get_by_role("dialog")).to_contain_text("The links no longer work.")
    assert colleague.goto(link.input_value()).status == 410
    # A colleague does not see the run at the owner's address.
    colleague.goto(address)
    expect(colleague.locator("#message")).to_contain_text("There is no run")


def test_saved_runs_have_names_dates_and_pictures_apart_from_the_tour(page: Page):
    open_explore(page)
    fill(page, temperature="0", top_p="1", max_tokens="8")
    run_and_wait(page, 1)
    saved = page.locator("#runs li")
    expect(saved.locator("time")).to_have_text(re.compile(r"20\d\d"))
    page.wait_for_function("() => document.querySelector('#runs img').naturalWidth > 0")
    page.get_by_role("button", name="Rename What is in this image").click()
    page.get_by_label("Name of the run").fill("A dog, greedily")
    page.keyboard.press("Enter")
    expect(saved.locator("a")).to_have_text("A dog, greedily")
    expect(page.locator("#run-title")).to_have_text("A dog, greedily")
    expect(page).to_have_title(re.compile("^A dog, greedily · Explore sampling"))
    page.get_by_role("button", name="Take the tour").click()
    expect(page.locator("#tour-runs-title")).to_have_text("1 run of the tour")
    expect(page.locator("#candidates h5").first).to_contain_text("Token 6:")
    page.reload()
    expect(saved.locator("a")).to_have_text("A dog, greedily")
    expect_cells(page, 1)
    page.go_back()
    expect(page.locator("#grid-panel")).to_be_hidden()
    expect(page).to_have_title(re.compile("^Explore sampling"))
    page.go_forward()
    expect(page.locator("#run-title")).to_have_text("A dog, greedily")
