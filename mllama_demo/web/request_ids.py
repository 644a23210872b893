"""The id of each HTTP request: taken from the client or made here, in the response, and in every log line of the request."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

from mllama_demo.runtime.logs import REQUEST_ID, new_request_id
from mllama_demo.web.loading_app import App, Message, Receive, Scope, Send

HEADER = b"x-request-id"
KEY = "mllama_demo.request_id"  # the key in an ASGI scope
_VALID = re.compile(rb"[A-Za-z0-9._~:+/=@-]{1,100}")


class RequestIds:
    """An ASGI application that gives every request to another one an id. Outside of all others, so that every response has it.

    The header X-Request-Id of the client is used where it has 1 to 100 letters, digits and . _ ~ : + / = @ -. This module imports
    no web framework, because it serves the loading page too.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == HEADER), b"")
        request_id = given.decode() if _VALID.fullmatch(given) else new_request_id()
        # Not reset at the end: the web server logs an exception of the application in the same task.
        REQUEST_ID.set(request_id)
        scope[KEY] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message.get("headers", ()) if name.lower() != HEADER]
                message = {**message, "headers": [*headers, (HEADER, request_id.encode())]}
            await send(message)

        await self._app(scope, receive, send_with_id)


def request_id_of(scope: MutableMapping[str, Any]) -> str:
    """The id of the request with this scope; empty for one that did not come through RequestIds."""
    return scope.get(KEY, "")
