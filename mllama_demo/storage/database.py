"""The SQL database: its engine, transactions and clock, and the errors that users and operators read when it fails.

Knows how to create and migrate the schema. Knows nothing of what the tables hold: the other modules of this package do.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import StaticPool

from mllama_demo.errors import BadRequest, ConfigError, DatabaseUnavailable, Failure
from mllama_demo.storage.database_url import read_database_url
from mllama_demo.storage.migrations import migrate
from mllama_demo.storage.schema import schema_version
from mllama_demo.storage.server_limits import CONNECT_S, SILENCE_S, UNLIMITED, SilenceLimit, connect_arguments
from mllama_demo.storage.sqlite_file import SqliteFile

log = logging.getLogger(__name__)

_BUSY_TIMEOUT_S = 10
_RETRY_S = 2.0  # how often a database that failed is tried again
# Who waited so long in vain was the last: others are refused at once until the database answers, so that they hold no thread.
_IN_VAIN_S = 1.0
_MIGRATION_LOCK = 0x6D6C6C616D61  # the name of the lock that one process at a time migrates under, in the database of a server
_DOES_NOT_ANSWER = "The database of conversations does not answer; try again later."
_ENDED_STATEMENT = "The database of conversations took too long for this; try again later."
# The SQLSTATEs with which PostgreSQL ends one statement: at its time limit or on request, for a lock, for a conflict. A server
# that says so answers, and serves the statements of others.
_STATEMENT_ENDED = ("57014", "55P03", "40P01", "40001")


class Database:
    """One database with the tables of `schema`. Safe to use from several threads.

    Args:
        url: a SQLAlchemy URL. A missing SQLite file is created, with its folder.
    Attributes:
        failure: why the database does not answer; None while it does. It is tried again every _RETRY_S, until it answers.
    Raises:
        ConfigError: the database cannot be used, belongs to another program or is of a newer version.
    """

    def __init__(self, url: str) -> None:
        self._lock: AbstractContextManager[Any] = nullcontext()
        self._file: SqliteFile | None = None
        self._opened = 0  # how often the file was opened: a deleted one is restored and opened again
        self._file_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._closed = threading.Event()
        self._silence: SilenceLimit | None = None
        self._refuses_reading = self._refuses_writing = False
        self.failure: Failure | None = None
        parsed = read_database_url(url)
        self._name = parsed.render_as_string(hide_password=True)
        try:
            self._engine = self._create_engine(parsed)
            self._writer = self._engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")
            self._open()
        except (SQLAlchemyError, sqlite3.Error, ImportError, OSError) as error:
            reason = error.orig if isinstance(error, DBAPIError) else getattr(error, "strerror", None) or error
            raise ConfigError(f"The database {self._name} cannot be used: {' '.join(str(reason).split())}.") from error

    def _open(self) -> None:
        with self._writer.execution_options(**{UNLIMITED: True}).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a migration may take long
                # Several web processes may start at once. SQLite has one writer at a time anyway.
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            migrate(connection, self._name)
        if self._file is not None:
            self._file.remember()
        self._opened += 1

    def _create_engine(self, url: URL) -> Engine:
        # hide_parameters: an error's text would otherwise have what visitors wrote, and their cookies.
        if url.get_backend_name() != "sqlite":
            limits: dict[str, Any] = {"pool_timeout": CONNECT_S, "connect_args": connect_arguments(url)}
            engine = sql.create_engine(url, pool_pre_ping=True, hide_parameters=True, **limits)
            self._silence = SilenceLimit(engine)
            return engine
        options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_TIMEOUT_S}}
        if url.database in (None, "", ":memory:") or url.query.get("mode") == "memory":
            # A database in memory lives as long as its only connection. All threads share it, one at a time.
            options = {"connect_args": {"check_same_thread": False}, "poolclass": StaticPool}
            self._lock = threading.Lock()
        elif not url.query.get("uri"):
            path = Path(str(url.database))
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = SqliteFile(path)
        engine = sql.create_engine(url, hide_parameters=True, **options)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def now(self) -> datetime:
        """The current time as the tables store it: UTC, without a time zone."""
        return datetime.now(timezone.utc).replace(tzinfo=None)

    @contextmanager
    def transaction(self, write: bool = False) -> Iterator[Connection]:
        """A connection for one short transaction, committed at the end of the `with` block.

        Raises:
            BadRequest: a text contains a lone surrogate, or a number has more than 64 bits.
            DatabaseUnavailable: the database does not answer, ended a statement that took too long, or another writer changed the
                same row.
        """
        if (failure := self.failure) is not None and (self._refuses_writing if write else self._refuses_reading):
            raise DatabaseUnavailable(failure)
        with self._try_transaction(write) as connection:
            yield connection

    @contextmanager
    def _try_transaction(self, write: bool) -> Iterator[Connection]:
        began = time.monotonic()
        if self._file is not None and not self._file.is_same():
            self._reopen(self._file)
        opened = self._opened
        try:
            with self._lock, (self._writer if write else self._engine).begin() as connection:
                yield connection
        except UnicodeEncodeError:
            raise BadRequest("The text holds half a character (a lone surrogate), which cannot be stored.") from None
        except OverflowError:  # SQLite; each number that a client may send is some message, cell or version
            raise BadRequest("A number is too large for anything that is stored.") from None
        except IntegrityError as error:
            raise DatabaseUnavailable("The conversation was changed from elsewhere at the same time; try again.") from error
        except (DataError, ProgrammingError):  # a fault of this program
            raise
        except DBAPIError as error:
            cut = self._silence is not None and self._silence.was_cut()
            if not cut and _sqlstate(error) in _STATEMENT_ENDED:
                cause = f"The database of conversations ended a statement ({' '.join(str(error.orig).split())})."
                raise DatabaseUnavailable(Failure(_ENDED_STATEMENT, cause)) from error
            reason = f"no answer within {SILENCE_S:g} seconds" if cut else error.orig
            if time.monotonic() - began >= _IN_VAIN_S:
                self._refuses_writing, self._refuses_reading = True, self._refuses_reading or not write
            raise self._failed(reason) from error
        except PoolTimeout as error:
            raise self._failed("all connections are in use") from error
        if write and self._file is not None and (opened != self._opened or not self._file.is_same()):
            raise self._failed("its file was removed while something was written")
        self._answered(write)

    def _reopen(self, file: SqliteFile) -> None:
        with self._file_lock:
            if file.is_same():  # another thread was first
                return
            self._engine.dispose()
            try:
                happened = file.restore()
                self._open()
            except (SQLAlchemyError, sqlite3.Error, OSError, ConfigError) as error:
                raise self._failed(error.orig if isinstance(error, DBAPIError) else error) from error
            log.error(happened)

    # --- failures: one line in the log when they begin and one when they end --------------------------------------------

    def _failed(self, reason: object) -> DatabaseUnavailable:
        cause = f"The database of conversations does not answer ({' '.join(str(reason).split())})."
        failure = Failure(_DOES_NOT_ANSWER, cause)
        with self._state_lock:
            begins, self.failure = self.failure is None, failure
        if begins and not self._closed.is_set():
            log.error("%s It is tried again every %g s. Database: %s", cause, _RETRY_S, self._name)
            threading.Thread(target=self._try_again, name="database", daemon=True).start()
        return DatabaseUnavailable(failure)

    def _answered(self, write: bool) -> None:
        """Reading alone may work on a full disk."""
        if self.failure is None or not write:
            return
        with self._state_lock:
            ends, self.failure = self.failure is not None, None
            self._refuses_reading = self._refuses_writing = False
        if ends:
            log.warning("The database of conversations answers again.")

    def _try_again(self) -> None:
        while self.failure is not None and self.wait_to_retry():
            with suppress(DatabaseUnavailable), self._try_transaction(write=True) as connection:
                connection.execute(sql.update(schema_version).values(version=schema_version.c.version))

    def wait_to_retry(self) -> bool:
        """Waits as long as this database waits between two attempts. Returns False, at once, when it has been closed."""
        return not self._closed.wait(_RETRY_S)

    def close(self) -> None:
        """Closes the connections, after the transaction that uses the only one of a database in memory. Safe to call twice."""
        self._closed.set()
        if self._silence is not None:
            self._silence.close()
        with self._lock:  # SQLite crashes when a connection is closed in which another thread executes a statement
            self._engine.dispose()
        if self._file is not None:
            self._file.close()


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)  # of psycopg and of psycopg2


def _set_up_sqlite(connection: Any, _: Any) -> None:
    # The driver would begin a transaction only at the first write. A reader cannot always become a writer.
    connection.isolation_level = None
    for pragma in ("foreign_keys = ON", "journal_mode = WAL", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}").close()
    # SQLite's own lower() changes A to Z only.
    connection.create_function("lower", 1, lambda text: text if text is None else str(text).lower(), deterministic=True)


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
