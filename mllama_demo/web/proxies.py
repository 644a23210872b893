"""Warns the operator of a proxy that hides its visitors: limits for an address would hold for all of them together."""

from __future__ import annotations

import logging

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama_demo.web.auth.identity import visitor_id

log = logging.getLogger(__name__)
MANY_VISITORS = 10  # of one address, while no other address has come, before they are suspected to be behind a proxy


class ProxyWarnings:
    """A middleware that changes nothing and logs each of two warnings once.

    It stands behind uvicorn's own, which takes the address of a visitor from the header of a proxy that is trusted.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._warned_of_header = False
        self._addresses: set[str] = set()
        self._visitors: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._look(scope)
        await self._app(scope, receive, send)

    def _look(self, scope: Scope) -> None:
        headers, address = Headers(scope=scope), (scope.get("client") or ("unknown",))[0]
        forwarded = headers.get("x-forwarded-for")
        if (
            forwarded is not None
            and address not in [part.strip() for part in forwarded.split(",")]
            and not self._warned_of_header
        ):
            self._warned_of_header = True
            log.warning(
                "%s sends X-Forwarded-For and is not in trusted_proxies, so that all visitors who come through it count as one "
                "address. If it is your proxy, name it there.",
                address,
            )
        if len(self._addresses) > 1 or len(self._visitors) >= MANY_VISITORS or forwarded is not None:
            return
        self._addresses.add(address)
        if (visitor := visitor_id(headers.get("cookie"))) is not None:
            self._visitors.add(visitor)
        if len(self._addresses) == 1 and len(self._visitors) >= MANY_VISITORS:
            log.warning(
                "All visitors come from the address %s. If a proxy is in front of the demo, let it send X-Forwarded-For, and "
                "name it in trusted_proxies: limits for an address hold for all of its visitors together.",
                address,
            )
