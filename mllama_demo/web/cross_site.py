"""Requests that pages of other sites make a visitor's browser send."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama_demo.web.errors import ApiError
from mllama_demo.web.requests import SAFE_METHODS, is_same_origin


class CrossSiteRequests:
    """Refuses requests that change or generate something and come from a page of another site.

    A form or a script of any site can send them: also to a demo that only this machine reaches, whose visitor looks at that site.

    Args:
        allowed_origins: Sites whose pages may use the API, such as https://chat.example.com.
    """

    def __init__(self, app: ASGIApp, allowed_origins: Sequence[str] = ()) -> None:
        self._app, self._allowed = app, frozenset(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            request = Request(scope)
            if not is_same_origin(request) and request.headers.get("origin") not in self._allowed:
                message = (
                    "This request was sent by a page of another site. The option allowed_origins names the sites whose pages may "
                    "use the API."
                )
                await ApiError(403, message, code="cross_site").response()(scope, receive, send)
                return
        await self._app(scope, receive, send)
