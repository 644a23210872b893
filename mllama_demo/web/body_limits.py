"""Limits on the bodies of all requests together: the memory that they take, and the time until they have arrived."""

from __future__ import annotations

import anyio
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllama_demo.errors import ServerBusy
from mllama_demo.runtime.failures import FAILURES
from mllama_demo.runtime.memory import MemoryBudget, Reservation
from mllama_demo.web.errors import BUSY_RETRY_S

# Bodies up to this size are neither counted nor refused: the chat goes on while others send images.
SMALL_BODY_BYTES = 64 * 2**10
GRACE_S = 30.0
MIN_BYTES_PER_S = 32 * 2**10

BODY_MEMORY = MemoryBudget(
    "The demo is receiving too many large requests at the moment. Please try again soon.", "request_memory"
)


class BodyRefused(HTTPException):
    """Status 503 or 408. It is an HTTPException because FastAPI and Gradio report other errors of a body as a malformed body.

    Attributes:
        reason: The class of the failure in the metrics.
    """

    @property
    def reason(self) -> str:
        return "server_busy" if self.status_code == 503 else "too_slow"


class BodyLimits:
    """A middleware that refuses a body which does not fit into the memory for bodies (503) or arrives too slowly (408).

    Args:
        max_memory: bytes that the bodies of all requests may take. A body counts until the response to its request is complete.
        grace_s, min_bytes_per_s: A body must have arrived after grace_s seconds, and a second more for so many bytes of it.
    """

    def __init__(self, app: ASGIApp, max_memory: int, grace_s: float = GRACE_S, min_bytes_per_s: float = MIN_BYTES_PER_S) -> None:
        self._app = app
        self._max_memory, self._grace_s, self._min_bytes_per_s = max_memory, grace_s, min_bytes_per_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reservation: Reservation | None = None
        size, complete, started = 0, False, False
        begun = anyio.current_time()

        async def limited() -> Message:
            nonlocal size, complete, reservation
            if complete:  # what follows is the end of the connection, which may take as long as the response
                return await receive()
            left = begun + self._grace_s + size / self._min_bytes_per_s - anyio.current_time()
            with anyio.move_on_after(max(0.0, left)) as scope_:
                message = await receive()
            if scope_.cancelled_caught:
                FAILURES.add_limit("request_time")
                raise BodyRefused(408, "The request took too long to arrive. Please send it again.", {"Connection": "close"})
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > SMALL_BODY_BYTES:
                try:
                    reservation = reservation or BODY_MEMORY.reserve(0, self._max_memory)
                    reservation.grow_to(size, self._max_memory)
                except ServerBusy as error:
                    FAILURES.add_limit(error.limit)
                    headers = {"Retry-After": str(BUSY_RETRY_S), "Connection": "close"}
                    raise BodyRefused(error.status, str(error), headers) from None
            return message

        async def noting_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, limited, noting_start)
        except BodyRefused as error:  # of a middleware or a route that reads the body outside of an exception handler
            if started:
                raise
            FAILURES.add(error.reason, error.detail)
            await JSONResponse({"detail": error.detail}, error.status_code, error.headers)(scope, receive, send)
        finally:
            if reservation is not None:
                reservation.release()
