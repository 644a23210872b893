"""Streamed responses, and work that stops when its client disconnects. Knows ASGI; knows nothing of the routes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
KEEP_ALIVE_S = 5.0  # proxies cut a connection over which nothing comes, some of them after ten seconds


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
    """Sends each text as a server-sent event or comment. Closes the generator when the client disconnects.

    While nothing comes, a comment is sent every KEEP_ALIVE_S.
    """

    media_type = "text/event-stream"
    keep_alive = b": keep-alive\n\n"

    def __init__(self, events: AsyncGenerator[Any, None]) -> None:
        # nginx buffers a response until it has a page of it, unless X-Accel-Buffering forbids that.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    def encode(self, event: Any) -> bytes:
        return f"{event}\n\n".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientDisconnected):
            await while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        sent_at = loop.time()

        async def send_body(body: bytes) -> None:
            nonlocal sent_at
            sent_at = loop.time()
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async def keep_alive() -> None:
            while True:
                await asyncio.sleep(sent_at + KEEP_ALIVE_S - loop.time())
                if loop.time() - sent_at >= KEEP_ALIVE_S:
                    await send_body(self.keep_alive)

        async with aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            # A timer beside the events: a timeout of each event would take longer than all else that is done for it.
            timer = asyncio.ensure_future(keep_alive())
            try:
                async for event in events:
                    await send_body(self.encode(event))
            finally:
                timer.cancel()
                await asyncio.gather(timer, return_exceptions=True)
            await send({"type": "http.response.body", "body": b""})


class NdjsonStream(EventStream):
    """Sends each object as one line of JSON (newline-delimited JSON). Closes the generator when the client disconnects.

    What keeps the connection alive is a space before the next object: every JSON parser skips it, and not every reader an empty
    line.
    """

    media_type = "application/x-ndjson"
    keep_alive = b" "

    def encode(self, event: Any) -> bytes:
        return f"{json.dumps(event)}\n".encode()
