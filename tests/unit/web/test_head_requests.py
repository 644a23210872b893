"""HEAD is GET without a body, on every route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from mllama_demo.web.head_requests import HeadRequests
from mllama_demo.web.streaming import EventStream


async def value(request: Request) -> Response:
    return JSONResponse({"method": request.method}, 201, {"X-Kept": "yes"})


async def stream(request: Request) -> Response:
    async def events() -> AsyncGenerator[str, None]:
        yield "data: first"
        await asyncio.Event().wait()

    return EventStream(events())


@pytest.fixture
def client() -> TestClient:
    app = Starlette(routes=[Route("/value", value, methods=["GET"]), Route("/stream", stream, methods=["GET"])])
    app.add_middleware(HeadRequests)
    return TestClient(app)


def test_the_headers_are_those_of_get_and_the_body_is_left_out(client: TestClient):
    get, head = client.get("/value"), client.head("/value")
    assert (head.status_code, head.content) == (201, b"")
    assert head.headers == get.headers


def test_an_endless_stream_ends_after_its_headers(client: TestClient):
    head = client.head("/stream")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")
