"""From the tiny stand-in to a real vision model: the guide, and the page in front of Ollama."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.browser import chat_page as pages
from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import PHONE, Browsers
from tests.support.local_servers import OllamaServer
from tests.support.paths import EXAMPLE_IMAGES, ROOT
from tests.support.program import running

pytestmark = pytest.mark.timeout(300)


def test_the_start_page_of_the_stand_in_links_to_a_guide_for_a_real_model(browsers: Browsers):
    page = pages.open_chat(browsers.open(viewport=PHONE))
    with page.context.expect_page() as opened:  # Gradio opens the links of its Markdown in a new tab
        page.get_by_role("link", name="To talk to a real vision model").click()
    guide = opened.value
    expect(guide.get_by_role("heading", name="A real vision model on your laptop")).to_be_visible()
    for command in ("ollama pull llama3.2-vision", "configs/lm-studio.yaml", "llama-server -hf"):
        expect(guide.locator("pre", has_text=command)).to_be_visible()
    assert guide.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    found = obstacles(guide)
    assert not found, "\n".join(found)
    pages.take_screenshots(guide, "laptop-model")
    guide.get_by_role("link", name="To the chat").click()
    expect(pages.textarea(guide)).to_be_visible()


def test_the_page_in_front_of_ollama_answers_about_an_image_and_names_what_ollama_ignores(browsers: Browsers, tmp_path):
    server = OllamaServer("llama3.2-vision:latest")
    try:
        options = ("--config", str(ROOT / "configs" / "ollama.yaml"), "--remote-url", server.url)
        with running(tmp_path, *options) as program:
            program.wait_ready()
            page = pages.open_chat(browsers.open(program))
            expect(page.get_by_role("link", name="To talk to a real vision model")).to_have_count(0)
            expect(page.locator("#top-k input[type=range]")).to_be_disabled()
            expect(page.locator("#top-k")).to_contain_text("Ollama's OpenAI endpoint has no top_k")
            assert pages.ask_and_wait(page, "What is in this image?", EXAMPLE_IMAGES / "dog.png") == "Hi"
            (image, _) = server.asked[0].body["messages"][-1]["content"]
            assert image["image_url"]["url"].startswith("data:image/png;base64,")
            pages.take_screenshot(page, "ollama")
            page.close()
    finally:
        server.stop()
