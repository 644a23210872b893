"""Who is asking, and what a browser may do with our pages.

A visitor is an unguessable cookie: conversations belong to it, so that people who share one demo do not see each other's.
"""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "mllama_visitor"
COOKIE_DAYS = 365
PAGES = ("/", "/explore")  # what a visit may begin with
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}\Z")

# A markdown image in an answer cannot carry data to another host, and nothing is loaded from one.
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


def visitor_of(cookie_header: str | None) -> str | None:
    """The visitor's token from a Cookie header, None when there is none or it is not one of ours."""
    token = cookie_parser(cookie_header or "").get(COOKIE, "")
    return token if _TOKEN.match(token) else None


def owner_of_user(name: str) -> str:
    """Whose conversations a user's are, on whatever device; no visitor's token has a colon."""
    return f"user:{name}"


class VisitorMiddleware:
    """Gives new visitors their cookie and every response its security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cookie = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"), None)
        newcomer = scope["path"] in PAGES and visitor_of(cookie) is None

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                # Pages of our own that need less say so themselves.
                headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Referrer-Policy", "no-referrer")
                if newcomer:
                    token = secrets.token_urlsafe(24)
                    secure = "; Secure" if scope.get("scheme") == "https" else ""
                    headers.append(
                        "Set-Cookie",
                        f"{COOKIE}={token}; Path=/; Max-Age={COOKIE_DAYS * 86400}; HttpOnly; SameSite=Lax{secure}",
                    )
            await send(message)

        await self._app(scope, receive, send_with_headers)
