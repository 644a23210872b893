"""Fits the web application to the place where browsers reach it. The application itself knows no place.

- A proxy serves it below a path: addresses that leave the application get the path, and addresses that come in lose it.
- Another demo runs on another port of the host: browsers send cookies to every port, so the cookies of sessions have own names.
- Pages of other sites show it in a frame: the policy of the pages allows it, and the cookies are sent there.

Knows ASGI and imports no web framework, because it also stands in front of the loading page.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from mllama_demo.config.settings import DEFAULT_PORT, Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
# The cookies whose values belong to one demo alone. The cookie of a visitor may be the same for several.
SESSION_COOKIES = ("mllama_session", "mllama_admin", "mllama_admin_mark")
_PATH = re.compile(r"(;\s*path=)(/[^;]*)", re.IGNORECASE)
_SAME_SITE = re.compile(r";\s*(samesite=[^;]*|secure|partitioned)(?=;|$)", re.IGNORECASE)
_FRAME_ANCESTORS = re.compile(r"frame-ancestors [^;]*")


class Placement:
    """An ASGI application in front of another one.

    Args:
        settings: root_path, port and allowed_frame_ancestors are used.
    """

    def __init__(self, app: App, settings: Settings) -> None:
        self._app = app
        self._root = settings.root_path
        self._suffix = cookie_suffix(settings)
        self._frame_ancestors = settings.allowed_frame_ancestors or ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._root and scope["path"] == self._root and scope["type"] == "http":
            query = f"?{scope['query_string'].decode('latin-1')}" if scope.get("query_string") else ""
            await _redirect(f"{self._root}/{query}", send)
            return
        headers = scope["headers"]

        async def send_placed(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                message = {**message, "headers": self._outgoing(message.get("headers") or (), scope)}
            await send(message)

        host = _host_of_browser(headers)
        change = {b"cookie": self._incoming_cookies, **({b"host": lambda _: host} if host else {})}
        inner = {**scope, "headers": [(name, change[name](value) if name in change else value) for name, value in headers]}
        await self._app(self._without_root(inner), receive, send_placed)

    def _without_root(self, scope: Scope) -> Scope:
        """A proxy may strip the path or leave it."""
        prefix = f"{self._root}/"
        if self._root and scope["path"].startswith(prefix):
            scope["path"] = scope["path"][len(self._root) :]
            raw = scope.get("raw_path")
            if raw is not None and raw.startswith(prefix.encode()):
                scope["raw_path"] = raw[len(self._root) :]
        return scope

    def _incoming_cookies(self, value: bytes) -> bytes:
        if not self._suffix:
            return value
        kept = []
        for pair in value.decode("latin-1").split(";"):
            name, equals, content = pair.strip().partition("=")
            if name in SESSION_COOKIES:  # of another demo
                continue
            base = name.removesuffix(self._suffix)
            kept.append(f"{base if base in SESSION_COOKIES else name}{equals}{content}")
        return "; ".join(kept).encode("latin-1")

    def _outgoing(self, headers: Sequence[tuple[bytes, bytes]], scope: Scope) -> list[tuple[bytes, bytes]]:
        change = {
            b"location": lambda value: self._location(value, scope),
            b"set-cookie": lambda value: self._cookie(value, scope),
            b"content-security-policy": self._policy,
        }
        return [
            (name, change[name.lower()](value.decode("latin-1")).encode("latin-1") if name.lower() in change else value)
            for name, value in headers
        ]

    def _location(self, address: str, scope: Scope) -> str:
        if not self._root:
            return address
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        parts = urlsplit(address)
        if parts.netloc and parts.netloc == host:  # Starlette's redirects name the host that they were asked at
            address = parts._replace(scheme="", netloc="").geturl()
        return self._root + address if address.startswith("/") and not address.startswith("//") else address

    def _cookie(self, cookie: str, scope: Scope) -> str:
        name, _, rest = cookie.partition("=")
        if name in SESSION_COOKIES:
            name += self._suffix
        if self._root:
            rest = _PATH.sub(lambda found: found[1] + self._root + ("" if found[2] == "/" else found[2]), rest)
        if self._frame_ancestors and scope.get("scheme") in ("https", "wss"):
            # Partitioned: a browser keeps the cookies of each site around the frame apart, so that no other site can use them.
            rest = _SAME_SITE.sub("", rest) + "; Secure; SameSite=None; Partitioned"
        return f"{name}={rest}"

    def _policy(self, policy: str) -> str:
        if not self._frame_ancestors:
            return policy
        return _FRAME_ANCESTORS.sub(f"frame-ancestors 'self' {' '.join(self._frame_ancestors)}", policy)


def _host_of_browser(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """The host that the browser has in its address bar; None where it does not tell it.

    A proxy may send the Host of the server behind it. Only a page of the same origin is believed: another site's page could name
    any host.
    """
    found = dict(headers)
    if found.get(b"sec-fetch-site") != b"same-origin":
        return None
    address = found.get(b"origin") or found.get(b"referer") or b""
    return urlsplit(address.decode("latin-1")).netloc.encode("latin-1") or None


def cookie_suffix(settings: Settings) -> str:
    """What tells the cookies of this demo from those of other demos on the same host; empty at the default place."""
    port = "" if settings.port == DEFAULT_PORT else f"_{settings.port}"
    return port + settings.root_path.replace("/", "_")


async def _redirect(address: str, send: Send) -> None:
    headers = [(b"location", address.encode("latin-1")), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
