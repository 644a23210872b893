"""What the model wrote and what a visitor typed: shown whole, live and finished, and copied exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from mllama_demo.chat.rendering import render_answer
from tests.support.browser import chat_page as pages
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


@pytest.fixture
def dictation(slow_server: Program) -> Iterator[Path]:
    """The file with the text of the next answers. A file named pause beside it holds an answer before its end."""
    file, pause = slow_server.home / "dictated", slow_server.home / "pause"
    yield file
    file.unlink(missing_ok=True)
    pause.unlink(missing_ok=True)


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


def test_an_answer_is_shown_and_copied_as_the_model_wrote_it(slow_page: Page, dictation: Path):
    page = pages.open_chat(slow_page)
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


def test_a_message_is_copied_where_the_browser_has_no_clipboard_for_pages(page: Page):
    """As over plain HTTP in a local network."""
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })")
    pages.open_chat(page)
    pages.ask_and_wait(page, "What is 3 + 4?")
    page.evaluate("addEventListener('copy', (event) => (window.copied = event.clipboardData.getData('text/plain')))")
    pages.user_rows(page).get_by_role("button", name="Copy message").click()
    expect(page.get_by_role("status").filter(has_text="Copied.")).to_have_count(1)
    pages.textarea(page).click()
    page.keyboard.press("Control+V")
    expect(pages.textarea(page)).to_have_value("What is 3 + 4?")
