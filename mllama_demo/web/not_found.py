"""Answers an unknown address with a page, for people who followed a wrong link. Programs get the JSON that the routes send."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllama_demo.config.branding import Brand
from mllama_demo.web.middleware import is_api_path
from mllama_demo.web.requests import notice_page


class NotFoundPages:
    """A middleware that replaces a JSON response of status 404 where a browser asks for a page."""

    def __init__(self, app: ASGIApp, brand: Brand) -> None:
        self._app, self._brand = app, brand

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _wants_page(scope):
            await self._app(scope, receive, send)
            return
        replaced = False

        async def send_page(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] == 404:
                replaced = Headers(raw=message["headers"]).get("content-type", "").startswith("application/json")
                if replaced:
                    await self._page(scope)(scope, receive, send)
            if not replaced:
                await send(message)

        await self._app(scope, receive, send_page)

    def _page(self, scope: Scope) -> HTMLResponse:
        # A relative address, since a proxy may serve this application below a path of its own.
        root = "../" * (scope["path"].count("/") - 1) or "./"
        sentence = "The address may be mistyped, or what it named was deleted."
        return notice_page(self._brand, "There is no such page", sentence, 404, (root, "To the chat"))


def _wants_page(scope: Scope) -> bool:
    accepts_html = "text/html" in Headers(scope=scope).get("accept", "")
    return scope["method"] == "GET" and accepts_html and not is_api_path(scope["path"])
