"""A web server that answers as a test says, and the fetcher with this machine as the only address."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

from mllama_demo.errors import ImageError
from mllama_demo.images.fetch import fetch_image


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(out, "PNG")
    return out.getvalue()


class Server:
    """An HTTP server on loopback. pages: path to a function that answers; seen: the requests that came."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                with suppress(OSError):
                    outer.pages[self.path](self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_port
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()

    def url(self, path: str, host: str = "localhost") -> str:
        return f"http://{host}:{self.port}{path}"

    def page(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for key, value in headers.items():
                handler.send_header(key.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.pages[path] = answer
        return self.url(path)

    def redirect(self, path: str, target: str) -> str:
        return self.page(path, b"", 302, Location=target)

    def drip(self, path: str, start: bytes, drop: bytes) -> str:
        """Sends start, then drop after drop until somebody hangs up."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(start)
            while not self.over.wait(0.01):
                handler.wfile.write(drop)

        self.pages[path] = answer
        return self.url(path)


def local(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def fetch(url: str, **options: Any) -> Any:
    return fetch_image(url, **{"allowed_hosts": ["localhost"], "resolve": local, **options})


def refused(url: str, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        fetch(url, **options)
    return str(caught.value)
