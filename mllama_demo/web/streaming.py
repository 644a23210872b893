"""Streamed responses, and work that stops when its client disconnects. Knows ASGI; knows nothing of the routes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class ClientDisconnected(Exception):
    """The client closed its connection, so nobody will read the response."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work` and returns its result. The body of the request must have been read before.

    Raises:
        ClientDisconnected: the connection was closed first; `work` has been cancelled.
    """
    task = asyncio.ensure_future(work)
    disconnected = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((task, disconnected), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        task.cancel()
        disconnected.cancel()
        await asyncio.wait((task, disconnected))


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends each text as a server-sent event or comment. Closes the generator when the client disconnects."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Any, None]) -> None:
        # nginx buffers a response until it has a page of it, unless X-Accel-Buffering forbids that.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    def encode(self, event: Any) -> bytes:
        return f"{event}\n\n".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stream() -> None:
            async with aclosing(self._events) as events:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for event in events:
                    await send({"type": "http.response.body", "body": self.encode(event), "more_body": True})
                await send({"type": "http.response.body", "body": b""})

        try:
            await while_connected(receive, stream())
        except ClientDisconnected:
            return


class NdjsonStream(EventStream):
    """Sends each object as one line of JSON (newline-delimited JSON). Closes the generator when the client disconnects."""

    media_type = "application/x-ndjson"

    def encode(self, event: Any) -> bytes:
        return f"{json.dumps(event)}\n".encode()
