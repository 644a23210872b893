"""The connections of the web server: how many there may be at once, and how long one may stay open without a request, or unread.

uvicorn closes a connection that is idle after a response. One over which no request ever comes stays open: a few hundred of them
use up the file handles of the process, and then nobody is answered any more. One whose client reads nothing of a response holds
the response, and what it is made from, for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 20.0  # from the connection, or from the first byte after a response, to the last byte of a request's header
# From a response to the first byte of the next request. Longer than the proxies in front keep a connection, 60 s by default for
# nginx and AWS's balancer: what closes first must be the proxy, or a request of its meets a connection that is being closed.
KEEP_ALIVE_S = 75
UNREAD_TIMEOUT_S = 60.0  # for the client to read a part of a response
WANTED_HANDLES = 16_384
# asyncio accepts so many at once before it looks at any of them, and logs as many errors when there is no handle left.
BACKLOG = 64
OTHER_HANDLES = 96 + BACKLOG  # files, the database, pipes to other processes, connections to other servers
WITHOUT_LIMITS = 1000  # connections, on a system that tells no limit
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def connection_limit() -> int:
    """How many connections the file handles of this process suffice for. Raises the limit of handles as far as is allowed."""
    try:
        import resource
    except ImportError:  # Windows
        return WITHOUT_LIMITS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_HANDLES if hard == resource.RLIM_INFINITY else min(hard, WANTED_HANDLES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS allows less than it tells
            wanted = soft
    return max(wanted - OTHER_HANDLES, wanted // 2)


class BoundedProtocol(H11Protocol):
    """A connection of uvicorn with a time limit for requests. A new one beyond max_connections takes the place of an idle one.

    Attributes:
        idle_since: time.monotonic() when the connection began to wait for a request; None while a request is answered.
        used: Whether a request has been answered.
    """

    max_connections: ClassVar[int] = WITHOUT_LIMITS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.idle_since: float | None = None
        self.used = False
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > self.max_connections and not self._make_room():
            transport.write(_BUSY)
            transport.close()
            return
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_request()
        else:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is None or self.cycle.response_complete:  # else a request that was sent ahead has begun
            self._stop_waiting()
            self.used, self.idle_since = True, time.monotonic()  # until uvicorn's timeout_keep_alive

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(UNREAD_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait_for_request(self) -> None:
        if self._timer is None:
            self.idle_since = self.idle_since or time.monotonic()
            self._timer = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.idle_since = self._timer = None

    def _make_room(self) -> bool:
        """Closes one connection that waits for a request; False where none does.

        First those over which no request ever came: a proxy may be about to send one over any other. Of these that of the address
        with the most, and of these the oldest.
        """
        waiting = [other for other in self.connections if isinstance(other, BoundedProtocol) and other.idle_since is not None]
        if not waiting:
            return False
        idle = [other for other in waiting if not other.used] or waiting
        of_address = Counter(other.client and other.client[0] for other in idle)
        most = max(of_address.values())
        oldest = min(
            (other for other in idle if of_address[other.client and other.client[0]] == most),
            key=lambda other: other.idle_since or 0,
        )
        oldest.transport.abort()
        oldest._stop_waiting()
        self.connections.discard(oldest)
        return True
