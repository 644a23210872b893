"""What the model wrote and what a visitor typed: shown whole, live and finished, and copied exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from mllama_demo.chat.rendering import render_answer
from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import Browsers
from tests.support.program import Program

pytestmark = pytest.mark.timeout(300)

ANSWER = r"""<think>
A *plan* for List<String>.
</think>
The type List<String> names <!-- a comment --> and <foo>unknown</foo> tags, **bold**, $5 and $10, \(x^2\).

```python
a = "<b>"

b = 2
```

| a | b |
|---|---|
| $y$ | &lt; | more |

![cat](https://example.org/cat.png) <img src=x onerror=alert(1)> שלום"""
QUESTION = "What is List<String> & <b>this</b>?\n\n  Two spaces, <!-- and --> שלום"


def read_clipboard(page: Page) -> str:
    return page.evaluate("navigator.clipboard.readText()")


def shown_html(page: Page, container: str) -> str:
    """The HTML of an answer on the page, without the buttons that the page adds to code."""
    return page.locator(f"{container} .rendered-text").last.evaluate(
        """(text) => {
          const copy = text.cloneNode(true);
          copy.querySelectorAll(".copy-code").forEach((button) => button.remove());
          return copy.outerHTML;
        }"""
    )


def as_parsed(page: Page, html: str) -> str:
    """HTML as the browser writes it."""
    return page.evaluate("(html) => Object.assign(document.createElement('div'), { innerHTML: html }).innerHTML", html)


def test_an_answer_is_shown_and_copied_as_the_model_wrote_it(browsers: Browsers, slow_server: Program, dictation: Path):
    page = pages.open_chat(browsers.open(slow_server, fresh=True))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    pages.set_slider(page, "max-tokens", 1500)
    dictation.write_text(ANSWER, encoding="utf-8")
    pause = dictation.with_name("pause")
    pause.touch()
    pages.ask(page, QUESTION)
    live = page.locator("#live-answer .rendered-text")
    expect(live).to_contain_text("שלום")
    assert shown_html(page, "#live-answer") == as_parsed(page, render_answer(ANSWER, finished=False))
    pause.unlink()
    pages.wait_answered(page)
    assert shown_html(page, "#messages") == as_parsed(page, render_answer(ANSWER))

    pages.message_button(page, "Copy message").click()
    assert read_clipboard(page) == ANSWER
    page.locator("#chat-history").get_by_role("button", name="Copy code").click()
    assert read_clipboard(page) == 'a = "<b>"\n\nb = 2\n'
    pages.user_rows(page).get_by_role("button", name="Copy message").click()
    assert read_clipboard(page) == QUESTION
    assert pages.user_rows(page).locator(".typed-text").evaluate("(text) => text.textContent") == QUESTION

    text = page.locator("#messages .rendered-text")
    expect(text).to_have_attribute("dir", "auto")
    expect(pages.user_rows(page).locator(".typed-text")).to_have_attribute("dir", "auto")
    expect(text.get_by_text("A plan for List<String>.")).to_be_hidden()
    text.get_by_text("Thoughts").click()
    expect(text.get_by_text("A plan for List<String>.")).to_be_visible()
    assert text.locator("img").count() == 0
    pages.take_screenshot(page, "messages-desktop")


def test_a_message_is_copied_where_the_browser_has_no_clipboard_for_pages(fresh_page: Page):
    """As over plain HTTP in a local network."""
    fresh_page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })")
    pages.open_chat(fresh_page)
    pages.ask_and_wait(fresh_page, "What is 3 + 4?")
    fresh_page.evaluate("addEventListener('copy', (event) => (window.copied = event.clipboardData.getData('text/plain')))")
    pages.user_rows(fresh_page).get_by_role("button", name="Copy message").click()
    expect(fresh_page.get_by_role("status").filter(has_text="Copied.")).to_have_count(1)
    pages.textarea(fresh_page).click()
    fresh_page.keyboard.press("Control+V")
    expect(pages.textarea(fresh_page)).to_have_value("What is 3 + 4?")


def test_a_rating_and_its_note_are_stored_and_the_rating_is_shown_after_a_reload(page: Page):
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is it?")
    pages.message_button(page, "Dislike").click()
    note = page.locator("#note textarea")
    expect(note).to_be_visible()
    note.fill("It is <b>wrong</b>")
    assert not obstacles(page)
    page.locator("#send-note").click()
    expect(pages.notice(page)).to_contain_text("your note was kept")
    expect(note).to_be_hidden()
    pages.open_chat(page, page.url)
    expect(pages.message_button(page, "Disliked")).to_be_visible()
    expect(pages.message_button(page, "Like")).to_be_visible()


def test_continue_writes_what_one_longer_answer_would_have_been(page: Page):
    pages.open_chat(page)
    pages.set_greedy(page, True)
    pages.set_slider(page, "max-tokens", 8)
    begun = pages.ask_and_wait(page, "Tell me a story")
    with pages.settled(page):
        pages.message_button(page, "Continue").click()
    pages.wait_answered(page)
    continued = pages.last_bot_text(page)
    assert continued.startswith(begun)
    assert len(continued) > len(begun)
    assert pages.version_number(page) == "2 / 2"
    assert "16 tokens" in pages.answer_metadata(page)
    pages.set_slider(page, "max-tokens", 16)
    assert pages.retry(page) == continued
