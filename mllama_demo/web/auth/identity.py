"""Identifies visitors by a cookie, tells the threads who asks, and sets the security headers of every response.

Conversations belong to an owner: a signed-in user, or else the visitor with an unguessable cookie.
"""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllama_demo.runtime.threads import CLIENT

COOKIE = "mllama_visitor"
COOKIE_DAYS = 365
# The paths that set the cookie. A first visit requests many files at once, and each would set a different cookie.
_PAGES = re.compile(r"/|/explore|/present(/[^/]+(/(notes|rehearsal))?)?")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}\Z")

# No host but this one: the address of a Markdown image in an answer cannot carry data to another host.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)


def visitor_id(cookie_header: str | None) -> str | None:
    """Returns the visitor's token from a Cookie header; None without a valid one."""
    token = cookie_parser(cookie_header or "").get(COOKIE, "")
    return token if _TOKEN.match(token) else None


def owner_of(cookie_header: str | None, user: str | None) -> str | None:
    """Returns the owner of the conversations and runs of a request; None without a user and a valid cookie.

    A user has the same owner on every device. A visitor's token has no colon, so it never equals the owner of a user.
    """
    return f"user:{user}" if user else visitor_id(cookie_header)


class VisitorMiddleware:
    """Sets the cookie of new visitors, and the security headers of every response that does not set its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visitor = visitor_id(Headers(scope=scope).get("cookie"))
        is_new = visitor is None and _PAGES.fullmatch(scope["path"])
        CLIENT.set(((scope.get("client") or ("",))[0], visitor or ""))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Referrer-Policy", "same-origin")  # see ui/static/chat_head.js
                if is_new:
                    token = secrets.token_urlsafe(24)
                    secure = "; Secure" if scope.get("scheme") == "https" else ""
                    headers.append(
                        "Set-Cookie",
                        f"{COOKIE}={token}; Path=/; Max-Age={COOKIE_DAYS * 86400}; HttpOnly; SameSite=Lax{secure}",
                    )
            await send(message)

        await self._app(scope, receive, send_with_headers)
