"""Work that ends when its client goes away, and server-sent events. Knows ASGI and nothing of the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection; nobody reads what would be answered."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Awaits work, whose request body has been read. Raises ClientGone, with work cancelled, once the connection is closed."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.wait((task, gone))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, one line or comment for each text. Closes `events` when the client leaves."""

    media_type = "text/event-stream"
    end = "\n\n"

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        # X-Accel-Buffering: nginx would otherwise keep events until it has a page of them.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stream() -> None:
            async with aclosing(self._events) as events:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for event in events:
                    await send({"type": "http.response.body", "body": f"{event}{self.end}".encode(), "more_body": True})
                await send({"type": "http.response.body", "body": b""})

        try:
            await while_connected(receive, stream())
        except ClientGone:
            return


class LineStream(EventStream):
    """Newline-delimited JSON, one object a line."""

    media_type = "application/x-ndjson"
    end = "\n"
