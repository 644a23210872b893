"""Who may use the API, and how much they may send: checked before a byte of the body is read.

Keys are compared by their digests in constant time, and neither kept nor logged as they are.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama_demo.web.errors import ApiError
from mllama_demo.web.requests import BodyTooLarge, limit_body

CALLER = "mllama_demo.caller"


class Keys:
    """The keys that open the API; without any it is open to everybody."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def check(self, authorization: str | None) -> str | None:
        """Who is asking: a name for the key that is no key, None where none is needed. Raises ApiError 401."""
        if not self._digests:
            return None
        scheme, _, key = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("This API needs a key; send it as the header Authorization: Bearer KEY.")
        digest = _digest(key.strip().encode("latin-1", "replace"))
        # No early end: how long it takes must not tell how many keys there are before the right one.
        if sum([hmac.compare_digest(digest, known) for known in self._digests]) == 0:
            raise _unauthorized("The key in the header Authorization is none of this server's.")
        return digest.hex()[:16]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key")


class ApiGuard:
    """Lets requests for /v1 through that bring a key and no more bytes than are allowed. Sets scope[CALLER]: who is asking,
    by key or else by address."""

    def __init__(self, app: ASGIApp, keys: Keys, max_request_bytes: int) -> None:
        self._app = app
        self._keys = keys
        self._max_request_bytes = max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_api(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            caller = self._keys.check(Headers(scope=scope).get("authorization"))
            receive = limit_body(scope, receive, self._max_request_bytes)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        except BodyTooLarge as error:
            await ApiError(error.status_code, error.detail, code="too_large").response()(scope, receive, send)
            return
        address = (scope.get("client") or ("unknown",))[0]
        scope[CALLER] = f"api:{caller or address}"
        await self._app(scope, receive, send)


def is_api(path: str) -> bool:
    """Whether a path belongs to the OpenAI-compatible API."""
    return path == "/v1" or path.startswith("/v1/")
