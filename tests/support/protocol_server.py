"""A small server of the OpenAI chat-completions protocol with real sockets, whose answers a test decides byte by byte."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE_S = 20.0


class Exchange:
    """One chat request, and the means to answer it. body: what was asked for."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self._handler = handler
        self._begun = False
        self.body = body
        self.headers = dict(handler.headers)

    def refuse(self, status: int, error: Any, **headers: str) -> None:
        """error: JSON, or bytes as they are."""
        data = error if isinstance(error, bytes) else json.dumps(error).encode()
        self._handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()
        self._handler.wfile.write(data)

    def begin(self) -> None:
        """The head of a stream, and the chunk that vLLM sends first."""
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "text/event-stream")
        self._handler.end_headers()
        self._begun = True
        self.chunk({"role": "assistant", "content": ""})

    def event(self, value: Any) -> None:
        data = value if isinstance(value, str) else json.dumps(value)
        self._handler.wfile.write(f"data: {data}\n\n".encode())
        self._handler.wfile.flush()

    def chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None, **more}
        self.event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})

    def say(self, *texts: str) -> None:
        """A chunk for each text."""
        if not self._begun:
            self.begin()
        for text in texts:
            self.chunk({"content": text})

    def end(self, finish: str = "stop", usage: tuple[int, int] | None = (40, 3), **more: Any) -> None:
        if not self._begun:
            self.begin()
        self.chunk({}, finish, **{"stop_reason": None, **more})
        if usage:
            prompt, completion = usage
            counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
            self.event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "choices": [], "usage": counts})
        self.event("[DONE]")

    def wait_gone(self) -> bool:
        """Whether the client closes the connection, which is how a request is cancelled."""
        readable, _, _ = select.select([self._handler.connection], [], [], PATIENCE_S)
        return bool(readable) and self._handler.connection.recv(1, socket.MSG_PEEK) == b""


def hello(exchange: Exchange, *texts: str) -> None:
    exchange.say(*(texts or ("Hel", "lo", "!")))
    exchange.end()


class ProtocolServer:
    """models: of /v1/models. health: status and body of /health. chat: answers each chat request, in a thread of its own.
    routes: status and body of the other paths, or a function from the body of a POST to them; unknown_route: those of a path that
    is not among them.
    most: how many chat requests were under way at once. Everything may be changed while it runs."""

    def __init__(self, port: int = 0) -> None:
        self.routes: dict[str, Any] = {}
        self.unknown_route: tuple[int, Any] = (404, {"detail": "Not Found"})
        self.models: list[dict[str, Any]] = [{"id": "a-model", "object": "model", "owned_by": "vllm", "max_model_len": 512}]
        self.health: tuple[int, Any] = (200, b"")
        self.key: str | None = None
        self.chat: Callable[[Exchange], None] = hello
        self.asked: list[Exchange] = []
        self.paths: list[str] = []
        self.most = self._now = 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Nobody listens any more; a request under way goes on."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(PATIENCE_S)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None: ...

            def do_GET(self) -> None:
                server.paths.append(self.path)
                exchange = Exchange(self, {})
                if self.path == "/health":
                    exchange.refuse(*server.health)
                elif not self._allowed(exchange):
                    pass
                elif self.path == "/v1/models" and self.path not in server.routes:
                    exchange.refuse(200, {"object": "list", "data": server.models or None})
                else:
                    exchange.refuse(*server.routes.get(self.path, server.unknown_route))

            def do_POST(self) -> None:
                exchange = Exchange(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                if not self._allowed(exchange):
                    return
                if self.path != "/v1/chat/completions":
                    answer: Any = server.routes.get(self.path, server.unknown_route)
                    found: Any = answer(exchange.body) if callable(answer) else answer
                    status, content = found
                    exchange.refuse(status, content)
                    return
                with server._counted(exchange):
                    server.chat(exchange)

            def _allowed(self, exchange: Exchange) -> bool:
                if server.key is None or self.headers.get("Authorization") == f"Bearer {server.key}":
                    return True
                exchange.refuse(401, {"error": f"Unauthorized: {self.headers.get('Authorization')}"})
                return False

        return Handler

    @contextmanager
    def _counted(self, exchange: Exchange) -> Iterator[None]:
        with self._lock:
            self.asked.append(exchange)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1
