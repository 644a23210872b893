"""Time limits for a database on a server, so that a server that is slow or silent holds no thread for long.

The server itself ends statements that take too long. A server that is stopped, or cut off, ends nothing, and drivers wait for it
without a limit: SilenceLimit cuts such a connection.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine

CONNECT_S = 5  # to connect, and to get a connection of the pool
STATEMENT_S = 5  # for one statement, with its waiting for locks
SILENCE_S = 6.0  # for the answer to a statement
UNLIMITED = "mllama_demo_unlimited"  # the execution option of a connection whose statements may take any time
_CHECK_S = 0.5
_ARGUMENTS: dict[str, dict[str, int]] = {
    "psycopg": {"connect_timeout": CONNECT_S},
    "psycopg2": {"connect_timeout": CONNECT_S},
    "pymysql": {"connect_timeout": CONNECT_S, "read_timeout": int(SILENCE_S), "write_timeout": int(SILENCE_S)},
}


def connect_arguments(url: URL) -> dict[str, int]:
    """The time limits that the driver knows. What the URL sets itself is left out."""
    known = _ARGUMENTS.get(url.get_driver_name(), {})
    return {name: value for name, value in known.items() if name not in url.query}


class SilenceLimit:
    """Cuts a connection on which the server has not answered for SILENCE_S. Thread-safe.

    Args:
        engine: Its connections are watched from now on, where the driver tells their sockets (psycopg and psycopg2 do).
    """

    def __init__(self, engine: Engine) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[float, Any, int]] = {}  # by id of a connection: since when, the connection, which thread
        self._cut: set[int] = set()  # the threads whose connection was cut
        self._closed = threading.Event()
        self._started = False
        ping = engine.dialect.do_ping

        def ping_in_time(dbapi_connection: Any) -> bool:
            with self._watching(dbapi_connection):
                return ping(dbapi_connection)

        engine.dialect.do_ping = ping_in_time
        event.listen(engine, "before_cursor_execute", lambda connection, *_: self._begin_statement(connection))
        event.listen(engine, "after_cursor_execute", lambda connection, *_: self._end_statement(connection))
        for name in ("commit", "rollback"):
            event.listen(engine, name, self._begin_statement)
        for name in ("checkin", "invalidate"):
            event.listen(engine, name, lambda connection, *_: self._end(connection))
        if engine.dialect.name == "postgresql" and "statement_timeout" not in str(engine.url.query):
            event.listen(engine, "connect", lambda connection, _: self._limit_statements(connection))

    def was_cut(self) -> bool:
        """Whether the connection that this thread used last was cut."""
        with self._lock:
            return threading.get_ident() in self._cut

    def close(self) -> None:
        self._closed.set()

    def _limit_statements(self, connection: Any) -> None:
        with self._watching(connection):
            cursor = connection.cursor()
            cursor.execute(f"SET statement_timeout = {STATEMENT_S * 1000:.0f}")
            cursor.close()
            connection.commit()

    def _begin_statement(self, connection: Connection) -> None:
        if not connection.invalidated and not connection.get_execution_options().get(UNLIMITED):
            self._begin(connection.connection.dbapi_connection)

    def _end_statement(self, connection: Connection) -> None:
        if not connection.invalidated:
            self._end(connection.connection.dbapi_connection)

    @contextmanager
    def _watching(self, connection: Any) -> Iterator[None]:
        self._begin(connection)
        try:
            yield
        finally:
            self._end(connection)

    def _begin(self, connection: Any) -> None:
        with self._lock:
            self._cut.discard(threading.get_ident())
            self._waiting[id(connection)] = time.monotonic(), connection, threading.get_ident()
            if not self._started:
                self._started = True
                threading.Thread(target=self._watch, name="database connections", daemon=True).start()

    def _end(self, connection: Any) -> None:
        with self._lock:
            self._waiting.pop(id(connection), None)

    def _watch(self) -> None:
        while not self._closed.wait(_CHECK_S):
            with self._lock:  # so that no connection ends, and gives its descriptor to another, while it is cut
                now = time.monotonic()
                for key, (since, connection, thread) in list(self._waiting.items()):
                    if now - since > SILENCE_S:
                        del self._waiting[key]
                        self._cut.add(thread)
                        _shut(connection)


def _shut(connection: Any) -> None:
    """Ends the connection of a driver from another thread; the thread that waits for it gets an error at once."""
    with (
        contextlib.suppress(Exception),  # AttributeError: the driver does not tell; its own errors: it is closed already
        socket.socket(fileno=socket.dup(connection.fileno())) as end,
    ):
        end.shutdown(socket.SHUT_RDWR)
