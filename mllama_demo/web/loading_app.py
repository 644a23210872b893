"""Answers the first requests while the house behind it is still being built.

Importing Gradio takes seconds; the port is open from the first one. Until the real application is there, a browser gets a
page that says what is loading and replaces itself, and everybody else a 503 that may be tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from typing import Any, TypeVar, cast

MEANWHILE_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
PAGES = ("/present", "/explore")  # what people open besides /
T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# As the API itself will say it.
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
    """Runs work in a thread that does not keep the program from ending, unlike asyncio.to_thread: imports take seconds."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(cast("T", result))
        else:
            done.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile, and nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="build", daemon=True).start()
    return await done


class LoadingApp:
    """An ASGI application that becomes another one. build: makes the real application; runs once, in a thread."""

    def __init__(self, title: str, build: Callable[[], App], on_failure: Callable[[BaseException], None]) -> None:
        self._title = escape(title)
        self._build, self._on_failure = build, on_failure
        self._app: App | None = None
        self._lifespan_in: asyncio.Queue[Message] = asyncio.Queue()
        self._lifespan_out: asyncio.Queue[Message] = asyncio.Queue()
        self._lifespan: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer_meanwhile(scope, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        opening = asyncio.create_task(self._open())
        await receive()
        opening.cancel()
        if self._lifespan is not None and not self._lifespan.done():
            await self._lifespan_in.put({"type": "lifespan.shutdown"})
            await asyncio.wait([self._lifespan])
        await send({"type": "lifespan.shutdown.complete"})

    async def _open(self) -> None:
        """Builds the application, runs its start-up, then lets requests through."""
        try:
            app = await in_daemon_thread(self._build)
            self._lifespan = asyncio.create_task(self._run_lifespan(app))
            await self._lifespan_in.put({"type": "lifespan.startup"})
            started = asyncio.create_task(self._lifespan_out.get())
            await asyncio.wait([started, self._lifespan], return_when=asyncio.FIRST_COMPLETED)
            if not started.done():
                started.cancel()
                await self._lifespan  # raises what ended it
                raise RuntimeError("the application ended while it started")
            if started.result()["type"] != "lifespan.startup.complete":
                raise RuntimeError(started.result().get("message", "the application did not start"))
            self._app = app
        except Exception as error:
            self._on_failure(error)

    async def _run_lifespan(self, app: App) -> None:
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        await app(scope, self._lifespan_in.get, self._lifespan_out.put)

    async def _answer_meanwhile(self, scope: Scope, send: Send) -> None:
        wants_page = any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
        page = scope["path"] == "/" or (wants_page and scope["path"].startswith(PAGES))
        page = page and scope["method"] in ("GET", "HEAD")
        loading: dict[str, Any] = {"status": "loading", "reason": "the page is being loaded", "ui": False}
        if scope["path"].startswith("/v1/"):
            loading |= API_ERROR
        root = "../" * (scope["path"].count("/") - 1)  # the way to / also below another path, where a proxy has put us
        body = (LOADING_PAGE.format(title=self._title, root=root) if page else json.dumps(loading)).encode()
        headers = [
            (b"content-type", b"text/html; charset=utf-8" if page else b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"content-security-policy", MEANWHILE_POLICY),
            (b"retry-after", b"1"),
        ]
        await send({"type": "http.response.start", "status": 200 if page else 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
