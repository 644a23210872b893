"""Counts the responses of the web server by family of routes and status. Addresses themselves would be labels without bound."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllama_demo.web.metrics import Metrics

# By the first part of the path.
_FAMILIES = {
    "/v1": "api",
    "/gradio_api": "chat",
    "/config": "chat",
    "/picture": "chat",
    "/status": "chat",
    "/closed": "chat",
    "/explore": "explore",
    "/present": "present",
    "/admin": "admin",
    "/share": "share",
    "/login": "sign_in",
    "/logout": "sign_in",
    "/health": "monitoring",
    "/metrics": "monitoring",
    "/version": "monitoring",
    "/assets": "files",
    "/static": "files",
}
# The values of the label `route`.
FAMILIES = sorted({*_FAMILIES.values(), "page", "other"})


def family_of(path: str) -> str:
    """The family of a route, as the label `route` has it."""
    if path == "/":
        return "page"
    parts = path.split("/")
    if "static" in parts[2:3]:  # /explore/static and others
        return "files"
    return _FAMILIES.get("/".join(parts[:2]), "other")


class HttpMetrics:
    """A middleware that counts responses. A request whose exception leaves the application counts with status 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_status)
        except Exception:
            status = status or 500
            raise
        finally:
            if status:
                self._metrics.responded(family_of(scope["path"]), status)
