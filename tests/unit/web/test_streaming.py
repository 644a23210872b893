"""Streams keep their connection alive while nothing comes, in a form that every reader of the format skips."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Message, Receive

from mllama_demo.web import streaming
from mllama_demo.web.streaming import EventStream, NdjsonStream


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.02)


def body(kind: type[EventStream], *events: Any) -> bytes:
    async def slow() -> AsyncGenerator[Any, None]:
        for event in events:
            await asyncio.sleep(0.1)
            yield event

    async def route(request: Request) -> Response:
        return kind(slow())

    return TestClient(Starlette(routes=[Route("/", route)])).get("/").content


def test_server_sent_events_have_comments_while_nothing_comes():
    content = body(EventStream, "data: one", "data: two")
    first, *_ = parts = content.decode().split("\n\n")
    assert first == ": keep-alive", "before the first event, too"
    assert [part for part in parts if part != ": keep-alive"] == ["data: one", "data: two", ""]
    assert parts.index("data: two") - parts.index("data: one") > 1


def test_lines_of_json_begin_with_spaces_that_json_allows():
    content = body(NdjsonStream, {"a": 1}, {"b": 2}).decode()
    assert content.startswith(" ")
    assert [json.loads(line) for line in content.splitlines()] == [{"a": 1}, {"b": 2}]


async def sent(events: AsyncGenerator[Any, None], receive: Receive) -> list[Message]:
    """What a stream of the events sends."""
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    await EventStream(events)({"type": "http"}, receive, send)
    return messages


async def test_a_client_that_goes_while_nothing_comes_closes_the_generator():
    closed, gone = [], asyncio.Event()

    async def events() -> AsyncGenerator[str, None]:
        try:
            yield "one"
            await asyncio.sleep(0.1)
            gone.set()
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    before = asyncio.all_tasks()
    _, first, second, *_ = await sent(events(), receive)
    assert (first["body"], second["body"]) == (b"one\n\n", b": keep-alive\n\n")
    assert closed == [True]
    assert asyncio.all_tasks() == before, "the timer has ended"


async def test_an_exception_of_the_generator_comes_through():
    async def events() -> AsyncGenerator[str, None]:
        await asyncio.sleep(0.05)
        raise ValueError("broken")
        yield "one"

    async def receive() -> Message:
        return await asyncio.Event().wait()  # type: ignore[return-value]  # never returns

    before = asyncio.all_tasks()
    with pytest.raises(ValueError, match="broken"):
        await sent(events(), receive)
    assert asyncio.all_tasks() == before, "the timer has ended"
