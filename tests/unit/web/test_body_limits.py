"""Limits on the bodies of all requests together: those that are too many or too slow are refused, the others go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.types import Message

from mllama_demo.openai_api.routes import _add_error_handlers
from mllama_demo.web.body_limits import BODY_MEMORY, SMALL_BODY_BYTES, BodyLimits

MIB = 2**20


def application(**limits: Any) -> BodyLimits:
    app = FastAPI()

    @app.post("/read")
    async def read(request: Request) -> int:
        return len(await request.body())

    @app.post("/parsed")
    async def parsed(value: dict[str, Any]) -> int:
        return len(value)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/bare":  # an application without handlers of exceptions
            await receive()
            await receive()
        await app(scope, receive, send)

    _add_error_handlers(app, None)  # type: ignore[arg-type]
    return BodyLimits(inner, **{"max_memory": 4 * MIB, **limits})


class Call:
    """One request, whose parts the test sends when it likes."""

    def __init__(self, app: BodyLimits, path: str = "/read") -> None:
        self.parts: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []
        headers = [(b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
        }

        async def send(message: Message) -> None:
            self.sent.append(message)

        self.task = asyncio.create_task(app(scope, self.parts.get, send))

    async def send(self, size: int, more: bool = True) -> None:
        await self.parts.put({"type": "http.request", "body": b"x" * size, "more_body": more})
        for _ in range(20):  # turns of the event loop, so that the application has read it
            await asyncio.sleep(0)

    async def status(self) -> int:
        await self.task
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


@pytest.fixture
async def app() -> AsyncIterator[BodyLimits]:
    before = BODY_MEMORY.used
    yield application()
    assert BODY_MEMORY.used == before, "every request has released what it took"


async def test_unfinished_bodies_take_no_more_than_their_memory(app) -> None:
    calls = [Call(app) for _ in range(6)]
    for call in calls:
        await call.send(MIB)
    refused = [call for call in calls if call.task.done()]
    assert len(refused) == 2
    for call in refused:
        assert await call.status() == 503
        assert int(call.headers[b"retry-after"]) > 0
        assert "too many large requests" in json.loads(call.text)["error"]["message"]
    for call in calls:
        if call not in refused:
            await call.send(0, more=False)
            assert (await call.status(), call.text) == (200, str(MIB))


async def test_a_small_body_is_never_refused(app) -> None:
    large = Call(app)
    await large.send(4 * MIB)
    small = Call(app)
    await small.send(SMALL_BODY_BYTES, more=False)
    assert await small.status() == 200
    await large.send(0, more=False)
    assert await large.status() == 200


@pytest.mark.parametrize("path", ["/read", "/parsed", "/bare"])
async def test_a_body_that_does_not_arrive_is_refused(path: str) -> None:
    call = Call(application(grace_s=0.05), path)
    await call.send(10)
    assert await call.status() == 408
    assert "took too long" in call.text
    assert call.headers[b"connection"] == b"close"


async def test_a_large_body_has_more_time_than_a_small_one() -> None:
    app = application(grace_s=0.1, min_bytes_per_s=100)
    small, large = Call(app), Call(app)
    await small.send(1)
    await large.send(100_000)
    assert await small.status() == 408
    assert not large.task.done()
    await large.send(0, more=False)
    assert await large.status() == 200


async def test_what_follows_the_body_may_take_any_time() -> None:
    ended = asyncio.Event()

    async def waits_for_the_client(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        ended.set()

    call = Call(BodyLimits(waits_for_the_client, MIB, grace_s=0.02))
    await call.send(10, more=False)
    await asyncio.sleep(0.1)
    assert not call.task.done()
    call.parts.put_nowait({"type": "http.disconnect"})
    await call.task
    assert ended.is_set()
