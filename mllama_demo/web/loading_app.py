"""Serves a loading page, and status 503 for the API, until the real ASGI application is built.

Building the application imports Gradio, which takes seconds. The loading page replaces itself when the application is there.
This module imports no web framework, so that it answers from the first second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from typing import Any, TypeVar, cast

CONTENT_SECURITY_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
PAGES = ("/present", "/explore")  # paths that show the loading page, besides /
T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# The same error object as that of ApiError.from_demo_error, which needs FastAPI.
API_ERROR = {
    "error": {
        "message": "The server is still starting. Please try again in a moment.",
        "type": "service_unavailable_error",
        "param": None,
        "code": "model_unavailable",
    }
}
LOADING_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Loading…</title>
<style>
  :root {{ color-scheme: light dark }}
  body {{ margin: 0; min-height: 100vh; display: grid; place-content: center; gap: .75rem; text-align: center;
         font: 1.125rem/1.5 system-ui, sans-serif; background: Canvas; color: CanvasText }}
  progress {{ width: min(18rem, 70vw); margin: auto; accent-color: #d9480f }}
  p {{ margin: 0; opacity: .75 }}
</style></head>
<body><strong>{title}</strong><progress aria-label="Loading"></progress><p id="detail" role="status">Starting the page…</p>
<script>
  setInterval(async () => {{
    try {{
      const health = await (await fetch("{root}health")).json();
      if (health.ui !== false) location.reload();
    }} catch {{ document.getElementById("detail").textContent = "Waiting for the server…"; }}
  }}, 500);
</script></body></html>
"""


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a daemon thread. The process can end meanwhile; it would wait for a thread of asyncio.to_thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def resolve(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(cast("T", result))
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(resolve, result, error)

    threading.Thread(target=run, name="build", daemon=True).start()
    return await future


class LoadingApp:
    """An ASGI application that builds the real application in a thread and then passes every request on to it.

    Args:
        title: the heading of the loading page, as plain text.
        build: returns the real application; called once.
        on_failure: called when the real application cannot be built or started.
    """

    def __init__(self, title: str, build: Callable[[], App], on_failure: Callable[[BaseException], None]) -> None:
        self._title = escape(title)
        self._build, self._on_failure = build, on_failure
        self._app: App | None = None
        self._lifespan_in: asyncio.Queue[Message] = asyncio.Queue()
        self._lifespan_out: asyncio.Queue[Message] = asyncio.Queue()
        self._lifespan: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._run(receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._respond_while_loading(scope, send)

    async def _run(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        starting = asyncio.create_task(self._start())
        await receive()
        starting.cancel()
        if self._lifespan is not None and not self._lifespan.done():
            await self._lifespan_in.put({"type": "lifespan.shutdown"})
            await asyncio.wait([self._lifespan])
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        """Builds the real application and runs its ASGI start-up; only then requests reach the application."""
        try:
            app = await in_daemon_thread(self._build)
            self._lifespan = asyncio.create_task(self._run_lifespan(app))
            await self._lifespan_in.put({"type": "lifespan.startup"})
            started = asyncio.create_task(self._lifespan_out.get())
            await asyncio.wait([started, self._lifespan], return_when=asyncio.FIRST_COMPLETED)
            if not started.done():
                started.cancel()
                await self._lifespan  # raises the exception that ended it
                raise RuntimeError("the application ended while it started")
            if started.result()["type"] != "lifespan.startup.complete":
                raise RuntimeError(started.result().get("message", "the application did not start"))
            self._app = app
        except Exception as error:
            self._on_failure(error)

    async def _run_lifespan(self, app: App) -> None:
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        await app(scope, self._lifespan_in.get, self._lifespan_out.put)

    async def _respond_while_loading(self, scope: Scope, send: Send) -> None:
        accepts_html = any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
        is_page = scope["path"] == "/" or (accepts_html and scope["path"].startswith(PAGES))
        is_page = is_page and scope["method"] in ("GET", "HEAD")
        loading: dict[str, Any] = {"status": "loading", "reason": "the web page is being loaded", "ui": False}
        if scope["path"].startswith("/v1/"):
            loading |= API_ERROR
        # A relative address, since a proxy may serve this application below a path of its own.
        root = "../" * (scope["path"].count("/") - 1)
        body = (LOADING_PAGE.format(title=self._title, root=root) if is_page else json.dumps(loading)).encode()
        headers = [
            (b"content-type", b"text/html; charset=utf-8" if is_page else b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"content-security-policy", CONTENT_SECURITY_POLICY),
            (b"retry-after", b"1"),
        ]
        await send({"type": "http.response.start", "status": 200 if is_page else 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
