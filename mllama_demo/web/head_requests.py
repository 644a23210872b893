"""Answers HEAD as GET without a body. Probes and proxies send HEAD, and the routes know GET."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """A middleware. Of a stream it sends the headers; the route then finds its client disconnected."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        answered = asyncio.Event()

        async def receive_until_answered() -> Message:
            """The body of the request; after the headers of the answer, the end of the connection."""
            if not answered.is_set():
                waiting = [asyncio.ensure_future(receive()), asyncio.ensure_future(answered.wait())]
                try:
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    if waiting[0].done():
                        return waiting[0].result()
                finally:
                    for task in waiting:
                        task.cancel()
            return {"type": "http.disconnect"}

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                answered.set()

        await self._app({**scope, "method": "GET"}, receive_until_answered, send_headers)
