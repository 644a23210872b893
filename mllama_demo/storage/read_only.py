"""Reads a database that a running demo may use: nothing is created, migrated or written, and a statement may take any time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sql
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from mllama_demo.errors import ConfigError
from mllama_demo.storage.server_limits import connect_arguments


@contextmanager
def read_only_connection(url: URL) -> Iterator[Connection]:
    """A connection that can only read.

    Args:
        url: As read_database_url returns it.

    Raises:
        ConfigError: The database is missing or cannot be read, also where the `with` block fails because of it.
    """
    name = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite":
        if not url.query.get("uri"):
            url = url.set(database=f"file:{quote(str(Path(str(url.database)).absolute()))}", query={**url.query, "uri": "true"})
        url = url.update_query_dict({"mode": "rw"})  # "ro" would leave the files -wal and -shm behind
    # Of the limits that a driver knows, only that for the connection, and not those for an answer.
    limits = {option: seconds for option, seconds in connect_arguments(url).items() if option == "connect_timeout"}
    engine = sql.create_engine(url, hide_parameters=True, connect_args=limits)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only = ON").close())
    try:
        with engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.execution_options(postgresql_readonly=True)
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            yield connection
    except (SQLAlchemyError, sqlite3.Error) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise ConfigError(f"The database {name} cannot be read: {' '.join(str(reason).split())}.") from error
    finally:
        engine.dispose()
