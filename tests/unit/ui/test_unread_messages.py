"""Messages for pages that nobody reads take a bounded memory, and their events end. On a real Gradio application."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
import httpx2
import pytest
from fastapi import FastAPI
from gradio.data_classes import PredictBodyInternal

from mllama_demo.ui.gradio_patches import unread_messages
from mllama_demo.ui.gradio_patches.unread_messages import PageMessages, forget_unread_messages

TEXT = "x" * 100_000
PATIENCE_S = 20

pytestmark = pytest.mark.timeout(60)


class Page:
    """A page with one event, which yields texts until it is closed. running: how many of the events run."""

    def __init__(self) -> None:
        self.running = 0

        async def write() -> AsyncIterator[str]:
            self.running += 1
            try:
                for number in itertools.count(1):
                    await asyncio.sleep(0.01)
                    yield f"{number}{TEXT}"  # Gradio would send no more than the end of a text that begins as the last one
            finally:
                self.running -= 1

        with gr.Blocks() as demo:
            text = gr.Textbox()
            gr.Button().click(write, None, text)
        demo.queue(default_concurrency_limit=None, api_open=True)
        forget_unread_messages(demo)
        self.demo = demo
        self.app = gr.mount_gradio_app(FastAPI(), demo, path="/")
        self.messages: Any = demo._queue.pending_messages_per_session
        self.event_ids = demo._queue.pending_event_ids_session

    async def ask(self, session: str, client: httpx2.AsyncClient) -> None:
        if not self.demo.is_running:
            self.demo.run_startup_events()
        body = PredictBodyInternal(data=[], fn_index=0, session_hash=session).model_dump(
            include={"data", "fn_index", "session_hash"}
        )
        answer = await client.post("/gradio_api/queue/join", json=body)
        assert answer.status_code == 200, answer.text


@pytest.fixture
def page() -> Page:
    return Page()


async def until(condition: Any) -> None:
    for _ in range(PATIENCE_S * 100):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError


def client_of(page: Page) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(page.app), base_url="http://test")


async def test_messages_that_nobody_reads_are_forgotten_and_their_event_ends(page, monkeypatch) -> None:
    monkeypatch.setattr(unread_messages, "UNREAD_S", 0.3)
    async with client_of(page) as client:
        await page.ask("unread", client)
        await until(lambda: page.messages.size > 3 * len(TEXT))
        await until(lambda: "unread" not in page.messages)
        await until(lambda: page.running == 0)
    assert (page.messages.size, page.event_ids) == (0, {})


@pytest.mark.slow
async def test_unread_messages_of_all_pages_take_a_bounded_memory(page, monkeypatch) -> None:
    monkeypatch.setattr(unread_messages, "MAX_BYTES", 20 * len(TEXT))
    most = 0
    async with client_of(page) as client:
        for number in range(10):
            await page.ask(f"unread{number}", client)
        for _ in range(100):
            await asyncio.sleep(0.01)
            most = max(most, page.messages.size)
        await until(lambda: not page.messages)
        await until(lambda: page.running == 0)
    assert 10 * len(TEXT) < most <= 20 * len(TEXT)


@pytest.mark.slow
async def test_a_page_that_reads_its_messages_keeps_its_event(page, monkeypatch) -> None:
    monkeypatch.setattr(unread_messages, "UNREAD_S", 0.3)
    async with client_of(page) as client:
        await page.ask("read", client)
        for _ in range(100):
            messages = page.messages["read"]
            await messages.get()
    assert "read" in page.messages
    assert page.running == 1
    del page.messages["read"]
    assert page.messages.size == 0


async def test_the_oldest_of_too_many_pages_is_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(unread_messages, "MAX_PAGES", 3)
    ended: list[str] = []

    class Queue:
        pending_event_ids_session: dict[str, set[str]] = {}  # noqa: RUF012

        async def clean_events(self, *, session_hash: str) -> None:
            ended.append(session_hash)

    messages = PageMessages(Queue())
    for name in "abcd":
        messages[name] = None
        messages[name].put_nowait(name)
    await until(lambda: ended == ["a"])
    assert list(messages) == ["b", "c", "d"]
    messages["a"].put_nowait("for nobody")
    assert "a" not in messages
