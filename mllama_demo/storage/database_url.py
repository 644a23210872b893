"""Reads the option database_url, and says which package to install where a database needs one that is missing."""

from __future__ import annotations

import importlib.util

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from mllama_demo.errors import ConfigError

_EXAMPLE = "something like sqlite:///data/conversations.sqlite3 or postgresql://user:password@host/database is allowed"
# Names of a database that people and hosts write, and SQLAlchemy's name for it.
_NAMES = {"postgres": "postgresql", "pgsql": "postgresql"}
# The drivers of a database that is named without one, the best first, by the module that each needs.
_DRIVERS = {"postgresql": ("psycopg", "psycopg2"), "mysql": ("pymysql",), "mariadb": ("pymysql",)}
# The package of each module of a driver, where its name is another.
_PACKAGES = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}


def read_database_url(url: str) -> URL:
    """The URL, with a driver that is installed.

    Raises:
        ConfigError: it is no URL of a database, or its driver is not installed or cannot be used here.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise ConfigError(f"database_url is not a database URL; {_EXAMPLE}.") from None
    backend, plus, driver = parsed.drivername.partition("+")
    backend = _NAMES.get(backend, backend)
    if not plus and backend in _DRIVERS:
        drivers = _DRIVERS[backend]
        driver = next((name for name in drivers if importlib.util.find_spec(name) is not None), drivers[0])
    parsed = parsed.set(drivername=f"{backend}+{driver}" if driver else backend)
    try:
        dialect = parsed.get_dialect()
        dialect.import_dbapi()
    except NoSuchModuleError:
        raise ConfigError(f"database_url names {parsed.drivername!r}, which is no database known here; {_EXAMPLE}.") from None
    except ImportError as error:
        package = _PACKAGES.get(str(error.name), str(error.name))
        raise ConfigError(
            f"database_url needs the driver {driver or error.name} for {backend}, which is not installed; pip install {package}."
        ) from None
    if dialect.is_async:
        instead = f"; leave +{driver} out" if driver else ""
        raise ConfigError(f"database_url names {parsed.drivername!r}, a driver for asynchronous programs{instead}.")
    return parsed
