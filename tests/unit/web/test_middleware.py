"""API keys and body sizes are checked before the application, and work ends when its client disconnects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from mllama_demo.engine.base import Client
from mllama_demo.web import middleware
from mllama_demo.web.errors import ApiError
from mllama_demo.web.middleware import CALLER, ApiKeys, ApiMiddleware
from mllama_demo.web.streaming import ClientDisconnected, EventStream, while_connected
from tests.support.waiting import until

KEYS = ApiKeys(["first-key-123", "second-key-45"])


class Inner:
    """An application that reads its request's body and says how long it was."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        length, more = 0, True
        while more:
            message = await receive()
            length, more = length + len(message["body"]), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(length).encode()})


async def ask(
    guard: ApiMiddleware, path: str = "/v1/models", headers: dict[str, str] | None = None, body: Iterable[bytes] = ()
) -> tuple[int, dict[str, str], bytes]:
    pieces = list(body) or [b""]
    inbox = [{"type": "http.request", "body": p, "more_body": i < len(pieces) - 1} for i, p in enumerate(pieces)]
    sent: list[Any] = []

    async def receive() -> Any:
        return inbox.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    scope = {"type": "http", "path": path, "method": "POST", "headers": raw, "client": ("192.0.2.7", 5)}
    await guard(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, sent[1]["body"]


# --- keys ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Bearer first-key-123", "bearer second-key-45", "BEARER  first-key-123 "])
async def test_each_valid_key_is_accepted(header: str) -> None:
    inner = Inner()
    assert (await ask(ApiMiddleware(inner, KEYS, 100), headers={"Authorization": header}))[0] == 200


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "first-key-123", "Basic first-key-123", "Bearer first-key-12é"]
)
async def test_a_request_without_a_valid_key_does_not_reach_the_application(header: str | None) -> None:
    inner = Inner()
    headers = {} if header is None else {"Authorization": header}
    status, found, body = await ask(ApiMiddleware(inner, KEYS, 100), headers=headers)
    error = json.loads(body)["error"]
    assert (status, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
    assert found["www-authenticate"] == "Bearer"
    assert inner.scopes == []
    assert "first-key" not in body.decode()


async def test_without_configured_keys_the_api_is_open() -> None:
    assert (await ask(ApiMiddleware(Inner(), ApiKeys(), 100)))[0] == 200


@pytest.mark.parametrize("path", ["/health", "/", "/v10/models", "/metrics"])
async def test_paths_outside_the_api_need_no_key(path: str) -> None:
    assert (await ask(ApiMiddleware(Inner(), KEYS, 100), path))[0] == 200


async def test_a_caller_is_identified_by_key_or_else_by_address() -> None:
    inner = Inner()
    for header in ("Bearer first-key-123", "Bearer second-key-45", "bearer first-key-123"):
        await ask(ApiMiddleware(inner, KEYS, 100), headers={"Authorization": header})
    await ask(ApiMiddleware(inner, ApiKeys(), 100))
    first, second, again, keyless = [scope[CALLER] for scope in inner.scopes]
    assert first == again != second
    assert keyless == Client("192.0.2.7", "")
    assert first.address == keyless.address
    assert "first-key" not in first.visitor


async def test_keys_cannot_be_guessed_quickly_and_a_key_in_use_stays_right(monkeypatch) -> None:
    monkeypatch.setattr(middleware, "WRONG_KEYS", 3)
    app = ApiMiddleware(Inner(), ApiKeys(["first-key-123", "second-key-45"]), 100)

    async def status(key: str) -> tuple[int, Any]:
        found = await ask(app, headers={"Authorization": f"Bearer {key}"})
        return found[0], found[1].get("retry-after", "")

    assert (await status("first-key-123"))[0] == 200
    assert [(await status(f"guess-{index}"))[0] for index in range(4)] == [401] * 3 + [429]
    code, retry = await status("second-key-45")
    assert (code, int(retry) > 0) == (429, True), "a right guess looks like a wrong one"
    assert (await status("first-key-123"))[0] == 200


# --- sizes ---------------------------------------------------------------------------------------------------------------


async def test_a_body_within_the_limit_passes() -> None:
    assert (await ask(ApiMiddleware(Inner(), ApiKeys(), 10), body=[b"12345", b"67890"]))[2] == b"10"


async def test_a_body_that_is_announced_too_large_does_not_reach_the_application() -> None:
    inner = Inner()
    status, _, body = await ask(ApiMiddleware(inner, ApiKeys(), 2048), headers={"Content-Length": "2049"})
    assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")
    assert "2 KiB" in json.loads(body)["error"]["message"]
    assert inner.scopes == []


async def test_a_chunked_body_is_refused_at_the_limit() -> None:
    with pytest.raises(HTTPException) as caught:
        await ask(ApiMiddleware(Inner(), ApiKeys(), 10), body=[b"12345", b"678901"])
    assert caught.value.status_code == 413


async def test_the_key_is_checked_before_the_size() -> None:
    assert (await ask(ApiMiddleware(Inner(), KEYS, 10), headers={"Content-Length": "2049"}))[0] == 401


# --- Retry-After -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (2.1, "3")])
def test_retry_after_is_at_least_one_whole_second(seconds: float, header: str) -> None:
    assert ApiError(429, "Busy.", retry_after_s=seconds).response().headers["retry-after"] == header


# --- clients that disconnect ----------------------------------------------------------------------------------------------------


class Connection:
    """The receiving end of one request, whose body has been read."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self.closed = False

    async def receive(self) -> Any:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    def close(self) -> None:
        self._gone.set()

    async def forever(self) -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "data: again"
                await asyncio.sleep(0.001)
        finally:
            self.closed = True


async def test_work_is_cancelled_when_its_client_disconnects() -> None:
    connection = Connection()
    ended: list[str] = []

    async def work() -> None:
        try:
            connection.close()
            await asyncio.sleep(1000)
        finally:
            ended.append("cleaned up")

    with pytest.raises(ClientDisconnected):
        await while_connected(connection.receive, work())
    assert ended == ["cleaned up"]


async def test_work_of_a_connected_client_returns_its_result_or_raises_its_error() -> None:
    async def answer() -> int:
        return 5

    async def fail() -> int:
        raise ValueError("wrong")

    assert await while_connected(Connection().receive, answer()) == 5
    with pytest.raises(ValueError, match="wrong"):
        await while_connected(Connection().receive, fail())


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_stream_is_closed_when_the_client_disconnects_or_the_server_cancels(cancelled: bool) -> None:
    connection, sent = Connection(), []

    async def send(message: Any) -> None:
        sent.append(message)

    serving = asyncio.create_task(EventStream(connection.forever())({"type": "http"}, connection.receive, send))
    await until(lambda: len(sent) >= 3, "two events")
    assert not connection.closed
    serving.cancel() if cancelled else connection.close()
    await asyncio.wait([serving])
    assert connection.closed
    assert sent[1]["body"] == b"data: again\n\n"
