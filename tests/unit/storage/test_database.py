"""Which databases are opened, and how those that cannot be used are refused."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest
import sqlalchemy as sql

from mllama_demo.errors import BackendUnavailable, ConfigError, cause_of
from mllama_demo.storage import database as database_module
from mllama_demo.storage.database import Database
from mllama_demo.storage.schema import sessions
from tests.support.stored_conversations import sqlite_url


def test_missing_folders_are_created(tmp_path):
    Database(sqlite_url(tmp_path / "a" / "b" / "c.sqlite3")).close()
    assert (tmp_path / "a" / "b" / "c.sqlite3").is_file()


def test_a_database_may_be_closed_twice(url):
    database = Database(url)
    database.close()
    database.close()


def test_closing_a_database_in_memory_waits_for_the_transaction_of_another_thread():
    database = Database("sqlite://")
    closer = threading.Thread(target=database.close)
    with database.transaction() as connection:
        closer.start()
        closer.join(0.2)  # long enough for a close that does not wait
        assert connection.execute(sql.select(sql.func.count()).select_from(sessions)).scalar() == 0
    closer.join()


def test_sqlite_writes_ahead_and_checks_foreign_keys(url):
    with closing(Database(url)) as database, database.transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("These are notes, not a database.\n" * 100)
    with pytest.raises(ConfigError, match=r"notes\.txt cannot be used: file is not a database"):
        Database(sqlite_url(tmp_path / "notes.txt"))


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"file/data/c\.sqlite3 cannot be used: Not a directory"):
        Database(sqlite_url(tmp_path / "file" / "data" / "c.sqlite3"))


def test_a_database_that_cannot_be_written_is_refused_at_once(tmp_path):
    Database(sqlite_url(tmp_path / "c.sqlite3")).close()
    with pytest.raises(ConfigError, match="readonly database"):
        Database(f"sqlite:///file:{(tmp_path / 'c.sqlite3').as_posix()}?mode=ro&uri=true")


@pytest.mark.parametrize("url", ["conversations.db", "nosuch://host/name", "postgresql+psycopg://a:secret@localhost/x"])
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url):
    with pytest.raises(ConfigError, match="database") as error:
        Database(url)
    assert "secret" not in str(error.value)


def test_a_transaction_names_a_writer_that_holds_the_database_too_long(url, monkeypatch):
    monkeypatch.setattr(database_module, "_BUSY_TIMEOUT_S", 0.05)

    def write(database: Database) -> None:
        row = {"digest": "0" * 64, "subject": "ann", "credential": "0" * 64, "expires": database.now()}
        with database.transaction(write=True) as connection:
            connection.execute(sql.insert(sessions).values(row))

    with (
        closing(Database(url)) as database,
        closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendUnavailable, match="does not answer; try again later") as caught:
            write(database)
        assert "locked" in cause_of(caught.value)
        other.execute("ROLLBACK")
        write(database)
        assert other.execute("SELECT count(*) FROM sessions").fetchone() == (1,)
