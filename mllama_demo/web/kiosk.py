"""Closes what passers-by at a configured kiosk should not reach: Explore, Present, the guide, and the descriptions of the API."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama_demo.config.branding import Brand
from mllama_demo.web.requests import notice_page

CLOSED = (
    "/explore",
    "/present",
    "/laptop-model",
    "/openapi.json",
    "/docs",
    "/redoc",
    "/gradio_api/openapi.json",
    "/gradio_api/info",
)
SENTENCE = "This screen is a kiosk: the chat is all that it shows."


class KioskMiddleware:
    """Answers a closed address with status 404, and removes Gradio's ?view=api, which describes the API on the chat page."""

    def __init__(self, app: ASGIApp, brand: Brand) -> None:
        self._app, self._brand = app, brand

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            if any(scope["path"] == path or scope["path"].startswith(f"{path}/") for path in CLOSED):
                app = self._refusal(scope)
            elif scope["path"] == "/" and "view" in parse_qs(scope["query_string"].decode("latin-1")):
                app = RedirectResponse("./", 303)
        await app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response:
        if "text/html" not in Headers(scope=scope).get("accept", ""):
            return JSONResponse({"detail": SENTENCE}, 404)
        root = "../" * (scope["path"].count("/") - 1) or "./"
        return notice_page(self._brand, "Not on this screen", SENTENCE, 404, (root, "To the chat"))
