"""LoadingApp before the real application is built, after it, and when building or starting it fails."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mllama_demo.web.loading_app import App, LoadingApp

pytestmark = pytest.mark.timeout(60)
TIMEOUT_S = 20.0
# For what needs nothing but a few turns of the event loop.
SHORT_TIMEOUT_S = 3.0


class Builder:
    """Builds the real application when the test allows it, and notes what happens to it."""

    def __init__(self, failure: Exception | None = None, startup_failure: Exception | None = None) -> None:
        self.allowed = threading.Event()
        self.thread: str | None = None
        self.log: list[str] = []
        self._failure, self._startup_failure = failure, startup_failure

    def build(self) -> App:
        assert self.allowed.wait(TIMEOUT_S)
        self.thread = threading.current_thread().name
        self.log.append("built")
        if self._failure is not None:
            raise self._failure

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
            if self._startup_failure is not None:
                raise self._startup_failure
            self.log.append("started up")
            yield
            self.log.append("shut down")

        async def answer(request: Request) -> PlainTextResponse:
            return PlainTextResponse(f"{request.method} {request.url.path} {(await request.body()).decode()}")

        methods = ["GET", "HEAD", "POST"]
        routes = [Route("/", answer, methods=methods), Route("/health", answer, methods=methods)]
        return Starlette(routes=routes, lifespan=lifespan)


class Server:
    """As much of an ASGI server as LoadingApp needs."""

    def __init__(self, build: Callable[[], App], title: str = "A demo") -> None:
        self.failures: list[BaseException] = []
        self.failed = asyncio.Event()
        self.app = LoadingApp(title, build, self._note)
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[Any] = asyncio.Queue()
        self._life: asyncio.Task[None] | None = None

    def _note(self, error: BaseException) -> None:
        self.failures.append(error)
        self.failed.set()

    async def start(self) -> None:
        self._life = asyncio.create_task(self.app({"type": "lifespan"}, self._to_app.get, self._from_app.put))
        await self._to_app.put({"type": "lifespan.startup"})
        assert await asyncio.wait_for(self._from_app.get(), SHORT_TIMEOUT_S) == {"type": "lifespan.startup.complete"}

    async def stop(self) -> None:
        assert self._life is not None
        await self._to_app.put({"type": "lifespan.shutdown"})
        await asyncio.wait_for(self._life, SHORT_TIMEOUT_S)
        assert self._from_app.get_nowait() == {"type": "lifespan.shutdown.complete"}

    async def ask(self, method: str, path: str, body: bytes = b"", accept: str = "*/*") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the response."""
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "http_version": "1.1", "method": method, "path": path, "query_string": b""}
        scope["headers"] = [(b"accept", accept.encode())]
        await self.app(scope, receive, send)
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, sent[1].get("body", b"")

    async def wait_for_application(self, timeout_s: float = TIMEOUT_S) -> None:
        """Waits until the real application answers, or the failure is known."""
        deadline = time.monotonic() + timeout_s
        while (await self.ask("GET", "/health"))[0] == 503 and not self.failures:
            assert time.monotonic() < deadline, "the application neither answers nor has failed"
            await asyncio.sleep(0.002)


@pytest.fixture
def unhandled_failures() -> Iterator[None]:
    """Python reports a task whose exception nobody retrieved when the task is collected: here, not during another test."""
    yield
    gc.collect()


@pytest.fixture
async def server() -> AsyncGenerator[Server, None]:
    """A server whose application is built after the test. The test must not have begun the build."""
    builder = Builder()
    server = Server(builder.build)
    await server.start()
    yield server
    assert builder.log == []
    builder.allowed.set()
    await server.wait_for_application()
    await server.stop()


# --- before the application is built -------------------------------------------------------------------------------------


async def test_a_browser_gets_the_loading_page_until_the_application_is_built(server: Server) -> None:
    status, headers, body = await server.ask("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert headers["cache-control"] == "no-store"
    assert int(headers["content-length"]) == len(body)
    assert "<strong>A demo</strong>" in body.decode()
    assert 'fetch("health")' in body.decode(), "the page replaces itself"


async def test_the_loading_page_is_shown_below_present_but_not_for_other_paths(server: Server) -> None:
    browser = "text/html,application/xhtml+xml,*/*;q=0.8"
    for path, health in (("/present", "health"), ("/present/a-demo", "../health"), ("/present/a-demo/notes", "../../health")):
        status, _, body = await server.ask("GET", path, accept=browser)
        assert (status, f'fetch("{health}")' in body.decode()) == (200, True)
    assert (await server.ask("GET", "/health", accept=browser))[0] == 503
    assert (await server.ask("GET", "/present/a-demo/scenario.json"))[0] == 503


@pytest.mark.parametrize(("method", "path"), [("GET", "/health"), ("POST", "/v1/chat/completions"), ("POST", "/"), ("GET", "/x")])
async def test_other_requests_get_503_until_the_application_is_built(server: Server, method: str, path: str) -> None:
    status, headers, body = await server.ask(method, path, b"{}")
    assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/json", "1")
    assert headers["cache-control"] == "no-store"
    assert int(headers["content-length"]) == len(body)
    answer = json.loads(body)
    assert (answer["status"], answer["ui"]) == ("loading", False)
    if path.startswith("/v1/"):
        assert answer["error"]["code"] == "model_unavailable"
    assert answer["reason"]


@pytest.mark.parametrize(("path", "expected"), [("/", 200), ("/health", 503)])
async def test_a_head_request_gets_the_same_headers_and_no_body(server: Server, path: str, expected: int) -> None:
    _, headers_of_get, _ = await server.ask("GET", path)
    status, headers, body = await server.ask("HEAD", path)
    assert (status, body) == (expected, b"")
    assert headers == headers_of_get


@pytest.mark.parametrize("title", ["Fish & <b>chips</b>", "{title} {0} %s", "日本 – ½"])
async def test_the_title_of_the_loading_page_is_escaped(title: str) -> None:
    _, _, body = await Server(Builder().build, title).ask("GET", "/")
    page = body.decode()
    assert "<b>" not in page
    escaped = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f"<strong>{escaped}</strong>" in page


# --- the real application ------------------------------------------------------------------------------------------------


async def test_the_application_is_built_in_a_thread_started_and_then_gets_every_request() -> None:
    builder = Builder()
    server = Server(builder.build)
    await server.start()
    builder.allowed.set()
    await server.wait_for_application()
    assert builder.log == ["built", "started up"]
    assert builder.thread != threading.current_thread().name, "the event loop answers while it is built"
    assert (await server.ask("GET", "/"))[2] == b"GET / "
    assert (await server.ask("POST", "/health", b"hello"))[2] == b"POST /health hello"
    assert (await server.ask("GET", "/missing"))[0] == 404
    assert server.failures == []
    await server.stop()
    assert builder.log == ["built", "started up", "shut down"]


async def test_no_request_reaches_the_application_before_its_startup_is_complete() -> None:
    starting, finish_startup = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan", "a request came too early"
        assert (await receive())["type"] == "lifespan.startup"
        starting.set()
        await finish_startup.wait()
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})

    server = Server(lambda: app)
    await server.start()
    await starting.wait()
    assert (await server.ask("GET", "/health"))[0] == 503
    finish_startup.set()
    await server.stop()
    assert server.failures == []


async def test_shutdown_does_not_wait_for_a_build() -> None:
    builder = Builder()
    server = Server(builder.build)
    await server.start()
    await server.stop()
    assert server.failures == []
    assert builder.log == []
    builder.allowed.set()


# --- failing -------------------------------------------------------------------------------------------------------------


async def test_a_failed_build_is_reported_once_and_requests_still_get_503() -> None:
    error = ImportError("no module named gradio")
    builder = Builder(failure=error)
    server = Server(builder.build)
    await server.start()
    builder.allowed.set()
    await server.failed.wait()
    assert server.failures == [error]
    assert (await server.ask("GET", "/health"))[0] == 503
    await server.stop()
    assert server.failures == [error]


@pytest.mark.usefixtures("unhandled_failures")
async def test_a_failed_startup_is_reported_and_no_request_reaches_the_application() -> None:
    builder = Builder(startup_failure=RuntimeError("no room for temporary files"))
    server = Server(builder.build)
    await server.start()
    builder.allowed.set()
    await server.failed.wait()
    [error] = server.failures
    assert "no room for temporary files" in str(error)
    assert (await server.ask("GET", "/health"))[0] == 503
    assert builder.log == ["built"]


@pytest.mark.usefixtures("unhandled_failures")
async def test_the_server_stops_after_a_failed_startup() -> None:
    builder = Builder(startup_failure=RuntimeError("no room for temporary files"))
    server = Server(builder.build)
    await server.start()
    builder.allowed.set()
    await server.failed.wait()
    await server.stop()


@pytest.mark.usefixtures("unhandled_failures")
async def test_an_application_without_lifespan_gets_requests() -> None:
    """By the ASGI specification a server goes on when the application raises for the lifespan scope."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    server = Server(lambda: app)
    await server.start()
    await server.wait_for_application(SHORT_TIMEOUT_S)
