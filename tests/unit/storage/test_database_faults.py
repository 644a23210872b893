"""What happens to a database while the program runs: deleted, replaced, corrupted, locked, full, read-only.

Nothing that was stored is lost where anything of it is left, visitors get one sentence, and the log has one line.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import sqlalchemy as sql
from sqlalchemy import event
from sqlalchemy.exc import InterfaceError
from sqlalchemy.pool import QueuePool

from mllama_demo.errors import BackendUnavailable, cause_of
from mllama_demo.storage import database as database_module
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.schema import sessions
from tests.support.manual_backend import conversation_of
from tests.support.stored_conversations import sqlite_url
from tests.support.waiting import wait_until

ME = "me"
SENTENCE = "The database of conversations does not answer; try again later."
SECRET = "what only the visitor knows"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "conversations.sqlite3"


@pytest.fixture
def store(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConversationStore]:
    monkeypatch.setattr(database_module, "_BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(database_module, "_RETRY_S", 0.05)
    with closing(Database(sqlite_url(path))) as database:
        yield ConversationStore(database)


def put(store: ConversationStore, *texts: str) -> str:
    return store.save(ME, conversation_of(*texts)).id


def texts(store: ConversationStore, id: str) -> list[str]:
    return [message.text for message in store.load(ME, id).messages]


def texts_in_file(path: Path, id: str) -> list[str]:
    """The texts that a new start of the program finds."""
    with closing(Database(sqlite_url(path))) as database:
        return texts(ConversationStore(database), id)


def files_of(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}*"))


REMOVALS: dict[str, Callable[[Path], object]] = {
    "the file": lambda path: path.unlink(),
    "all its files": lambda path: [file.unlink() for file in files_of(path)],
    "its folder": lambda path: shutil.rmtree(path.parent),
    "moved away": lambda path: path.rename(path.with_name("elsewhere")),
}


@pytest.mark.parametrize("removal", REMOVALS)
def test_a_removed_file_is_written_again_with_everything_in_it(store, path, caplog, removal):
    first = put(store, "Hello?", "Hi")
    REMOVALS[removal](path)
    assert texts(store, first) == ["Hello?", "Hi"]
    second = put(store, "And now?")
    REMOVALS[removal](path)
    third = put(store, "And then?")
    store.database.close()
    assert [texts_in_file(path, id) for id in (first, second, third)] == [["Hello?", "Hi"], ["And now?"], ["And then?"]]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "was deleted while the program ran" in caplog.text
    assert path.parent.stat().st_mode & 0o077 == 0, "no other user of the machine may read it"


def test_threads_that_find_the_file_gone_restore_it_once(store, path, caplog):
    id = put(store, "Hello?", "Hi")
    path.unlink()
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(texts(store, id))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["Hello?", "Hi"]] * 8
    assert len(caplog.records) == 1


def test_a_file_that_was_replaced_is_used(store, path, tmp_path, caplog):
    with closing(Database(sqlite_url(tmp_path / "backup"))) as database:
        id = put(ConversationStore(database), "From the backup")
    put(store, "Hello?")
    (tmp_path / "backup").replace(path)
    assert texts(store, id) == ["From the backup"]
    assert "was replaced while the program ran" in caplog.text


def test_a_file_that_was_replaced_by_something_else_is_named_until_it_is_put_right(store, path, tmp_path, caplog):
    id = put(store, "Hello?")
    (tmp_path / "notes").write_text("These are notes, not a database.\n" * 100)
    (tmp_path / "notes").replace(path)
    with pytest.raises(BackendUnavailable) as caught:
        texts(store, id)
    assert (str(caught.value), "not a database" in cause_of(caught.value)) == (SENTENCE, True)
    with pytest.raises(BackendUnavailable):
        texts(store, id)
    assert len(caplog.records) == 1
    path.unlink()
    assert texts(store, id) == ["Hello?"], "the lost file was still open"
    wait_until(lambda: store.database.failure is None, "the database answers again", 20)


# --- faults that pass -----------------------------------------------------------------------------------------------------


class Fault:
    """A fault of the file or of the disk. It begins with the `with` block and ends with it."""

    def __init__(self, store: ConversationStore, path: Path) -> None:
        self.database, self.path = store.database, path

    def __enter__(self) -> Fault:
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        raise NotImplementedError


class Locked(Fault):
    reason = "locked"

    def __enter__(self) -> Fault:
        self._other = sqlite3.connect(self.path, isolation_level=None)
        self._other.execute("BEGIN IMMEDIATE")
        return self

    def __exit__(self, *_: object) -> None:
        self._other.close()


class _Pragma(Fault):
    """A setting of every connection that makes SQLite fail as it does on such a disk."""

    on = off = ""

    def __enter__(self) -> Fault:
        event.listen(self.database._engine, "checkout", self._turn_on)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(self.database._engine, "checkout", self._turn_on)
        event.listen(self.database._engine, "checkout", lambda connection, *_: connection.execute(self.off).close())

    def _turn_on(self, connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(self.on).close()


class Full(_Pragma):
    """A write that needs no new page succeeds all the same. The next attempt is such a write, and is made after the fault."""

    reason, on, off = "database or disk is full", "PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000"

    def __enter__(self) -> Fault:
        self._ended = threading.Event()
        self.database.wait_to_retry = lambda: self._ended.wait(20)
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._ended.set()


class ReadOnly(_Pragma):
    reason, on, off = "readonly database", "PRAGMA query_only = ON", "PRAGMA query_only = OFF"


@pytest.mark.parametrize("kind", [Locked, Full, ReadOnly])
def test_a_fault_that_passes_is_told_once_and_reading_goes_on(store, path, caplog, kind):
    id = put(store, "Hello?", "Hi")
    long = "And now? " * 5000  # more than the free space of the pages that the file has
    with kind(store, path):
        for _ in range(3):
            with pytest.raises(BackendUnavailable) as caught:
                put(store, long)
            assert str(caught.value) == SENTENCE
            assert kind.reason in cause_of(caught.value)
            assert texts(store, id) == ["Hello?", "Hi"]
        assert store.database.failure == SENTENCE
    wait_until(lambda: store.database.failure is None, "the database answers again", 20)
    assert put(store, long)
    levels = [record.levelname for record in caplog.records]
    assert (levels, kind.reason in caplog.records[0].getMessage()) == (["ERROR", "WARNING"], True)


def test_a_corrupted_file_is_named_in_one_sentence(store, path, caplog):
    ids = [put(store, "Hello? " * 200, "Hi") for _ in range(50)]
    with store.database.transaction() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    store.database._engine.dispose()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    with pytest.raises(BackendUnavailable) as caught:
        _ = [texts(store, id) for id in ids]
    assert (str(caught.value), "malformed" in cause_of(caught.value)) == (SENTENCE, True)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_an_error_does_not_tell_what_was_to_be_stored(store):
    row = {"digest": SECRET, "subject": SECRET, "credential": SECRET, "expires": store.database.now()}
    with pytest.raises(BackendUnavailable) as caught, store.database.transaction(write=True) as connection:
        connection.execute(sql.insert(sessions), [row, row])  # the second has the key of the first
    assert SECRET not in str(caught.value.__cause__)


def test_a_connection_that_the_driver_finds_closed_is_a_failure_of_the_database(store):
    with pytest.raises(BackendUnavailable) as caught, store.database.transaction():
        raise InterfaceError("SELECT 1", None, sqlite3.InterfaceError("the connection is closed"))
    assert (str(caught.value), "the connection is closed" in cause_of(caught.value)) == (SENTENCE, True)


def test_waiting_in_vain_for_a_connection_is_a_failure_of_the_database(path):
    with closing(Database(sqlite_url(path))) as database, ExitStack() as held:
        pool = database._engine.pool
        assert isinstance(pool, QueuePool)
        pool._timeout = 0.05
        for _ in range(15):  # five, and ten more in times of need
            held.enter_context(database._engine.connect())
        with pytest.raises(BackendUnavailable) as caught, database.transaction():
            pass
        assert (str(caught.value), "all connections are in use" in cause_of(caught.value)) == (SENTENCE, True)


def test_what_was_written_to_a_file_that_is_restored_meanwhile_is_a_failure(store, path):
    first = put(store, "Hello?")

    def write() -> None:
        with store.database.transaction(write=True) as connection:
            connection.execute(sql.delete(sessions))
            path.unlink()
            assert texts(store, first) == ["Hello?"], "another thread restores the file"

    with pytest.raises(BackendUnavailable) as caught:
        write()
    assert (str(caught.value), "was removed" in cause_of(caught.value)) == (SENTENCE, True)
    wait_until(lambda: store.database.failure is None, "the database answers again")
    second = put(store, "And now?")
    store.database.close()
    assert [texts_in_file(path, id) for id in (first, second)] == [["Hello?"], ["And now?"]]
