"""The SQL database: its engine, transactions and clock, and the errors that users and operators read when it fails.

Knows how to create and migrate the schema. Knows nothing of what the tables hold: the other modules of this package do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from mllama_demo.errors import BackendUnavailable, BadRequest, ConfigError, Failure
from mllama_demo.storage.migrations import migrate

_BUSY_TIMEOUT_S = 10


class Database:
    """One database with the tables of `schema`. Safe to use from several threads.

    Args:
        url: a SQLAlchemy URL. A missing SQLite file is created, with its folder.
    Raises:
        ConfigError: the database cannot be used, belongs to another program or is of a newer version.
    """

    def __init__(self, url: str) -> None:
        self._lock: AbstractContextManager[Any] = nullcontext()
        try:
            parsed = make_url(url)
            name = parsed.render_as_string(hide_password=True)
        except ArgumentError:
            raise ConfigError("database_url is not a database URL such as sqlite:///data/conversations.sqlite3.") from None
        try:
            self._engine = self._create_engine(parsed)
            self._writer = self._engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")
            with self._writer.begin() as connection:
                migrate(connection, name)
        except (SQLAlchemyError, ImportError, OSError) as error:
            reason = error.orig if isinstance(error, DBAPIError) else getattr(error, "strerror", None) or error
            raise ConfigError(f"The database {name} cannot be used: {' '.join(str(reason).split())}.") from error

    def _create_engine(self, url: URL) -> Engine:
        if url.get_backend_name() != "sqlite":
            return sql.create_engine(url, pool_pre_ping=True)
        options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_TIMEOUT_S}}
        if url.database in (None, "", ":memory:") or url.query.get("mode") == "memory":
            # A database in memory lives as long as its only connection. All threads share it, one at a time.
            options = {"connect_args": {"check_same_thread": False}, "poolclass": StaticPool}
            self._lock = threading.Lock()
        elif not url.query.get("uri"):
            Path(str(url.database)).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = sql.create_engine(url, **options)
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
            BadRequest: a text contains a lone surrogate.
            BackendUnavailable: the database does not answer, or another writer changed the same row.
        """
        try:
            with self._lock, (self._writer if write else self._engine).begin() as connection:
                yield connection
        except UnicodeEncodeError:
            raise BadRequest("The text holds half a character (a lone surrogate), which cannot be stored.") from None
        except IntegrityError as error:
            raise BackendUnavailable("The conversation was changed from elsewhere at the same time; try again.") from error
        except OperationalError as error:
            sentence = "The database of conversations does not answer; try again later."
            cause = f"The database of conversations does not answer ({error.orig})."
            raise BackendUnavailable(Failure(sentence, cause)) from error

    def close(self) -> None:
        """Closes the connections. Safe to call twice."""
        self._engine.dispose()


def _set_up_sqlite(connection: Any, _: Any) -> None:
    # The driver would begin a transaction only at the first write. A reader cannot always become a writer.
    connection.isolation_level = None
    for pragma in ("foreign_keys = ON", "journal_mode = WAL", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}").close()
    # SQLite's own lower() changes A to Z only.
    connection.create_function("lower", 1, lambda text: text if text is None else str(text).lower(), deterministic=True)


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
