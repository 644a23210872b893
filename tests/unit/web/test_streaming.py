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

from mllama_demo.web import streaming
from mllama_demo.web.streaming import EventStream, NdjsonStream, with_pauses


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


async def test_closing_between_two_events_closes_the_generator():
    closed = []

    async def events() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    stream = with_pauses(events(), 0.01)
    assert [await anext(stream) for _ in range(3)] == [1, None, None]
    await stream.aclose()
    assert closed == [True]


async def test_an_exception_of_the_generator_comes_through():
    async def events() -> AsyncGenerator[int, None]:
        await asyncio.sleep(0.05)
        raise ValueError("broken")
        yield 1

    async def read() -> None:
        async for event in with_pauses(events(), 0.01):
            assert event is None

    with pytest.raises(ValueError, match="broken"):
        await read()
