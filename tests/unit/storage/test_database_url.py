"""The option database_url: names that hosts write, drivers that are missing, and databases that nobody knows."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from mllama_demo.errors import ConfigError
from mllama_demo.storage.database_url import read_database_url

PLACE = "name:secret@host:5432/demo"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Makes a package of this name look installed: SQLAlchemy's dialect imports nothing when its import is left out."""
    found = importlib.util.find_spec

    def make(*names: str) -> None:
        def find(name: str):
            return found("json") if name in names else None if name in ("psycopg", "psycopg2", "pymysql") else found(name)

        monkeypatch.setattr(importlib.util, "find_spec", find)
        for dialect in ("psycopg.PGDialect_psycopg", "psycopg2.PGDialect_psycopg2"):
            monkeypatch.setattr(f"sqlalchemy.dialects.postgresql.{dialect}.import_dbapi", classmethod(lambda cls: None))

    return make


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "pgsql"])
@pytest.mark.parametrize(
    ("packages", "driver"), [(("psycopg",), "psycopg"), (("psycopg2",), "psycopg2"), (("psycopg", "psycopg2"), "psycopg")]
)
def test_postgres_without_a_driver_takes_the_one_that_is_installed(installed, scheme, packages, driver):
    installed(*packages)
    url = read_database_url(f"{scheme}://{PLACE}?sslmode=require")
    assert url.drivername == f"postgresql+{driver}"
    assert url.render_as_string(hide_password=False) == f"postgresql+{driver}://{PLACE}?sslmode=require"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            f"postgres://{PLACE}",
            "needs the driver psycopg for postgresql, which is not installed; pip install 'psycopg[binary]'.",
        ),
        (f"postgresql+psycopg://{PLACE}", "which is not installed; pip install 'psycopg[binary]'."),
        (f"postgresql+psycopg2://{PLACE}", "which is not installed; pip install psycopg2-binary."),
        (f"mysql://{PLACE}", "needs the driver pymysql for mysql, which is not installed; pip install pymysql."),
        (f"mysql+mysqldb://{PLACE}", "which is not installed; pip install mysqlclient."),
        (f"mongodb://{PLACE}", "names 'mongodb', which is no database known here; something like sqlite:///data/"),
        (f"postgresql+unknown://{PLACE}", "names 'postgresql+unknown', which is no database known here"),
        ("conversations.sqlite3", "is not a database URL; something like sqlite:///data/"),
        ("postgresql://name:secret@host:port/demo", "is not a database URL"),
    ],
)
def test_what_cannot_be_used_is_a_sentence_without_the_password(url, said, monkeypatch):
    for module in ("psycopg", "psycopg2", "pymysql", "MySQLdb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as caught:
        read_database_url(url)
    assert str(caught.value).startswith("database_url ")
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_sqlite_url_stays_as_it_is():
    for url in ("sqlite:///data/conversations.sqlite3", "sqlite://", "sqlite+pysqlite:///a.db"):
        assert read_database_url(url).render_as_string() == url


def test_a_driver_for_asynchronous_programs_is_refused(monkeypatch):
    dialect = "sqlalchemy.dialects.postgresql.asyncpg.PGDialect_asyncpg.import_dbapi"
    monkeypatch.setattr(dialect, classmethod(lambda cls: None))
    with pytest.raises(ConfigError, match=r"a driver for asynchronous programs; leave \+asyncpg out"):
        read_database_url(f"postgresql+asyncpg://{PLACE}")
