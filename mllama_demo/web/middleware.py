"""Checks requests to the API before the application reads them: the API key and the size of the body."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from cachetools import LRUCache
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama_demo.engine.base import Client
from mllama_demo.web.auth.attempts import FailedAttempts, TooManyAttempts
from mllama_demo.web.errors import ApiError
from mllama_demo.web.requests import BodyTooLarge, limit_body

CALLER = "mllama_demo.caller"  # the key in an ASGI scope
WRONG_KEYS = 30


class ApiKeys:
    """The keys of the API. Without keys the API is open. Only digests of the keys are stored; no key is logged.

    An address may send WRONG_KEYS wrong keys in ten minutes. A key that was right from this address before stays right.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys]
        self._wrong = FailedAttempts(WRONG_KEYS)
        self._right: LRUCache[tuple[str, bytes], bool] = LRUCache(10_000)

    def check(self, authorization: str | None, address: str) -> str | None:
        """Checks the header Authorization.

        Args:
            address: of the client.

        Returns:
            An identifier of the key, made from its digest; None where no key is needed.

        Raises:
            ApiError: 401, and 429 after too many wrong keys.
        """
        if not self._digests:
            return None
        scheme, _, key = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("This API needs a key; send it as the header Authorization: Bearer KEY.")
        digest = _digest(key.strip().encode("latin-1", "replace"))
        if (address, digest) not in self._right:
            try:
                self._wrong.add(address)
            except TooManyAttempts as error:
                message = f"Too many wrong keys came from your address. Please try again in {error.retry_s} seconds."
                raise ApiError(429, message, code="rate_limit_exceeded", retry_after_s=error.retry_s) from None
            # Constant time: the comparison goes through all keys and does not stop at the right one.
            if sum([hmac.compare_digest(digest, known) for known in self._digests]) == 0:
                raise _unauthorized("The key in the header Authorization is none of this server's.")
            self._wrong.remove_last(address)
            self._right[address, digest] = True
        return digest.hex()[:16]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key")


class ApiMiddleware:
    """Refuses requests to /v1 that lack a valid key or whose body is too large.

    Sets scope[CALLER]: the Client, with an identifier of its key.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, max_request_bytes: int) -> None:
        self._app = app
        self._keys = keys
        self._max_request_bytes = max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_api_path(scope["path"]):
            await self._app(scope, receive, send)
            return
        address = (scope.get("client") or ("unknown",))[0]
        try:
            headers = Headers(scope=scope)
            key = self._keys.check(headers.get("authorization"), address)
            encoding = headers.get("content-encoding", "identity").strip().lower()
            if encoding not in ("", "identity"):
                message = f"The body has the Content-Encoding {encoding[:20]!r}; send it as it is, uncompressed."
                raise ApiError(415, message, code="unsupported_encoding")
            receive = limit_body(scope, receive, self._max_request_bytes)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        except BodyTooLarge as error:
            await ApiError(error.status_code, error.detail, code="too_large").response()(scope, receive, send)
            return
        scope[CALLER] = Client(address, f"api:{key}" if key else "")
        await self._app(scope, receive, send)


def is_api_path(path: str) -> bool:
    """Whether a path belongs to the OpenAI-compatible API."""
    return path == "/v1" or path.startswith("/v1/")
