"""Connections without a request are closed, and never keep anybody else out. On a real uvicorn server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests
import uvicorn

from mllama_demo.web import connections
from mllama_demo.web.connections import KEEP_ALIVE_S, OTHER_HANDLES, WANTED_HANDLES, BoundedProtocol, connection_limit
from tests.support.program import visitor
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.timeout(60)
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Server:
    """A server with at most 5 connections. answering: how many requests wait until `go_on` is set."""

    def __init__(self) -> None:
        self.answering, self.go_on = 0, threading.Event()
        protocol: Any = type("FiveConnections", (BoundedProtocol,), {"max_connections": 5})
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._app,
                http=protocol,
                interface="asgi3",
                lifespan="off",
                log_level="critical",
                timeout_graceful_shutdown=1,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        wait_until(lambda: self._server.started, "the server has started")

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/slow":
            self.answering += 1
            await asyncio.to_thread(self.go_on.wait, PATIENCE_S)
        if scope["path"] == "/large":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(400):
                await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            await send({"type": "http.response.body", "body": b"ok"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    @property
    def open(self) -> int:
        return len(self._server.server_state.connections)

    def close(self) -> None:
        self.go_on.set()
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[[bytes], socket.socket]]:
    """Opens a connection and sends some bytes over it."""
    with ExitStack() as stack:

        def connect(data: bytes = b"") -> socket.socket:
            one = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S))
            one.sendall(data)
            return one

        yield connect


def ask(server: Server, path: str = "/") -> requests.Response:
    with visitor() as session:
        return session.get(f"http://127.0.0.1:{server.port}{path}", timeout=PATIENCE_S)


def read_answer(one: socket.socket) -> None:
    read = b""
    while not read.endswith(b"ok"):
        read += (piece := one.recv(1000))
        assert piece, read


def is_closed(one: socket.socket) -> bool:
    try:
        return one.recv(1000) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:", REQUEST], ids=["nothing", "half a header", "one request"])
def test_a_connection_that_sends_no_whole_request_in_time_is_closed(server, connect, monkeypatch, sent: bytes) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 0.2)
    one = connect(sent)
    if sent == REQUEST:
        read_answer(one)
        one.sendall(b"GET / HT")  # the keep-alive timeout of uvicorn ends with the first byte
    assert is_closed(one)
    wait_until(lambda: server.open == 0, "nothing is open")


def test_a_connection_stays_open_after_a_response_longer_than_a_first_request_may_take(server, connect, monkeypatch) -> None:
    """A proxy in front keeps it for its next request, which must not meet a connection that is being closed."""
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 0.2)
    one = connect(REQUEST)
    read_answer(one)
    assert is_closed(connect()), "the time of a connection without a request is over, and began later"
    one.sendall(REQUEST)
    read_answer(one)


def test_connections_over_which_no_request_came_give_way_first(server, connect) -> None:
    used = [connect(REQUEST) for _ in range(2)]
    for one in used:
        read_answer(one)
    unused = [connect() for _ in range(3)]
    wait_until(lambda: server.open == 5, "all are open")
    assert ask(server).text == "ok"
    assert is_closed(unused[0])
    for one in used:
        one.sendall(REQUEST)
        read_answer(one)


@pytest.mark.slow
def test_a_header_that_trickles_in_has_no_more_time(server, connect, monkeypatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 0.5)
    one = connect(b"GET / HTTP/1.1\r\nHost: ")
    with pytest.raises(ConnectionError):  # noqa: PT012
        while True:
            one.sendall(b"x")
            one.settimeout(0.05)
            try:
                if one.recv(1) == b"":
                    raise ConnectionError
            except TimeoutError:
                pass


@pytest.mark.slow
def test_an_answer_may_take_longer_than_a_request(server, connect, monkeypatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 0.1)
    one = connect(REQUEST.replace(b"/ ", b"/slow "))
    wait_until(lambda: server.answering == 1, "the request is answered")
    one.settimeout(0.5)
    with pytest.raises(TimeoutError):
        one.recv(1000)
    server.go_on.set()
    one.settimeout(PATIENCE_S)
    read_answer(one)


def test_a_connection_whose_client_reads_nothing_of_a_response_is_closed(server, connect, monkeypatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_TIMEOUT_S", 0.3)
    one = connect(REQUEST.replace(b"/ ", b"/large "))
    wait_until(lambda: server.open == 1, "it is open")
    wait_until(lambda: server.open == 0, "it is closed")
    with pytest.raises(ConnectionError):  # noqa: PT012  # after what was sent before
        while one.recv(2**20):
            pass
        raise ConnectionError


def test_a_client_that_reads_slowly_gets_the_whole_response(server, connect, monkeypatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_TIMEOUT_S", 2.0)
    one = connect(REQUEST.replace(b"/ ", b"/large "))
    read = b""
    while not read.endswith(b"ok\r\n0\r\n\r\n"):
        read = (read + (piece := one.recv(2**18)))[-100:]
        assert piece


def test_idle_connections_give_way_to_new_ones_oldest_first(server, connect) -> None:
    idle = [connect() for _ in range(5)]
    wait_until(lambda: server.open == 5, "all are open")
    for _ in range(3):
        assert ask(server).text == "ok"
    assert is_closed(idle[0])
    assert server.open <= 5


def test_a_connection_is_refused_while_every_other_one_is_being_answered(server, connect) -> None:
    threads = [threading.Thread(target=ask, args=(server, "/slow")) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.answering == 5, "all are being answered")
    refused = connect(REQUEST).recv(1000)
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 5" in refused
    server.go_on.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert ask(server).text == "ok"


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [(256, 256, 128), (1024, 4096, 4096 - OTHER_HANDLES), (256, -1, WANTED_HANDLES - OTHER_HANDLES), (64, 64, 32)],
)
def test_the_limit_leaves_handles_for_the_rest_of_the_program(monkeypatch, soft: int, hard: int, expected: int) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no such limits")
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY if hard == -1 else hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    assert connection_limit() == expected
    assert [limits[0] for limits in raised] == ([] if soft == hard else [expected + OTHER_HANDLES])
