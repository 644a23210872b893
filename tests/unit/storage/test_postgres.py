"""A real PostgreSQL: what is stored there, and what happens while it hangs, is cut off or works too long on a statement."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from mllama_demo.errors import BackendUnavailable, ConfigError, DatabaseUnavailable, cause_of
from mllama_demo.storage import database as database_module
from mllama_demo.storage import server_limits
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.database_url import read_database_url
from mllama_demo.storage.read_only import read_only_connection
from mllama_demo.storage.schema import conversations
from tests.support import postgres as postgres_module
from tests.support.manual_backend import conversation_of
from tests.support.network_link import NetworkLink
from tests.support.postgres import Postgres, running_postgres
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.slow

ME = "me"
SENTENCE = "The database of conversations does not answer; try again later."


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as postgres:
        yield postgres


@pytest.fixture
def link(server: Postgres) -> Iterator[NetworkLink]:
    with closing(NetworkLink(server.port)) as link:
        yield link


@pytest.fixture
def store(server: Postgres, link: NetworkLink, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConversationStore]:
    monkeypatch.setattr(server_limits, "SILENCE_S", 1.0)
    monkeypatch.setattr(server_limits, "STATEMENT_S", 0.5)
    monkeypatch.setattr(database_module, "_RETRY_S", 0.05)
    with closing(Database(server.url(link.port))) as database:
        yield ConversationStore(database)


def put(store: ConversationStore, *texts: str) -> str:
    return store.save(ME, conversation_of(*texts)).id


def texts(store: ConversationStore, id: str) -> list[str]:
    return [message.text for message in store.load(ME, id).messages]


def test_what_is_stored_is_there_for_the_next_process(store: ConversationStore, server: Postgres) -> None:
    id = put(store, "Hello? 😀", "Hi")
    with closing(Database(server.url())) as database:
        other = ConversationStore(database)
        assert texts(other, id) == ["Hello? 😀", "Hi"]
        assert [one.id for one in other.list(ME, search="hello")] == [id]
        other.delete(ME, id)
    assert store.list(ME, search="hello") == []


@pytest.mark.parametrize("fault", ["the server hangs", "the network is silent"])
def test_a_server_that_is_silent_is_told_of_once_and_used_again(
    store: ConversationStore, server: Postgres, link: NetworkLink, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    id = put(store, "Hello?", "Hi")
    begin, end = (server.pause, server.go_on) if fault == "the server hangs" else (link.hold, link.flow)
    with ExitStack() as mended:
        mended.callback(end)
        begin()
        for attempt in (lambda: texts(store, id), lambda: put(store, "And now?")):
            with pytest.raises(BackendUnavailable) as caught:
                attempt()
            assert str(caught.value) == SENTENCE
        assert store.database.failure == SENTENCE
    wait_until(lambda: store.database.failure is None, "the database answers again")
    assert texts(store, id) == ["Hello?", "Hi"]
    assert put(store, "And then?")
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_transaction_under_way_ends_when_the_server_falls_silent(store: ConversationStore, server: Postgres) -> None:
    def use() -> None:
        with store.database.transaction() as connection:
            server.pause()
            connection.execute(sql.text("SELECT 1"))

    with ExitStack() as mended:
        mended.callback(server.go_on)
        with pytest.raises(DatabaseUnavailable) as caught:
            use()
        assert "no answer within" in cause_of(caught.value)
    wait_until(lambda: store.database.failure is None, "the database answers again")


def test_while_a_server_is_silent_nobody_else_waits_for_it(
    store: ConversationStore, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = put(store, "Hello?")
    with ExitStack() as mended:
        mended.callback(server.go_on)
        server.pause()
        with pytest.raises(DatabaseUnavailable):
            texts(store, id)
        asked: list[int] = []
        attempt = store.database._try_transaction

        def note(write: bool) -> AbstractContextManager[sql.Connection]:
            asked.append(threading.get_ident())
            return attempt(write)

        monkeypatch.setattr(store.database, "_try_transaction", note)
        for use in (lambda: texts(store, id), lambda: put(store, "And now?")):
            with pytest.raises(DatabaseUnavailable):
                use()
        assert threading.get_ident() not in asked
    wait_until(lambda: store.database.failure is None, "the database answers again")
    assert texts(store, id) == ["Hello?"]


def test_the_server_ends_a_statement_that_takes_too_long(store: ConversationStore) -> None:
    def sleep() -> None:
        with store.database.transaction() as connection:
            connection.execute(sql.text("SELECT pg_sleep(600)"))

    with pytest.raises(DatabaseUnavailable) as caught:
        sleep()
    assert "statement timeout" in cause_of(caught.value)


@pytest.mark.parametrize("fault", ["statement timeout", "lock timeout", "canceling statement due to user request", "deadlock"])
def test_a_statement_that_the_server_ends_fails_alone(
    store: ConversationStore, server: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    monkeypatch.setattr(database_module, "_IN_VAIN_S", 0.0)
    monkeypatch.setattr(database_module, "_RETRY_S", 600.0)
    id, ready, hold = put(store, "Hello?"), threading.Barrier(2), threading.Event()
    first, second = (f"SELECT pg_advisory_xact_lock({key})" for key in (1, 2))

    def hold_a_lock() -> None:
        with closing(Database(server.url())) as database, database.transaction() as connection:
            connection.execute(sql.text("SET LOCAL statement_timeout = 0; SET LOCAL deadlock_timeout = '1h'"))
            connection.execute(sql.text(second))
            ready.wait(PATIENCE_S)
            if fault == "deadlock":
                connection.execute(sql.text(first))
            hold.wait(PATIENCE_S)

    def use() -> None:
        with store.database.transaction(write=True) as connection:
            connection.execute(sql.text(first))
            ready.wait(PATIENCE_S)
            if fault == "lock timeout":
                connection.execute(sql.text("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '10ms'"))
            if fault == "deadlock":
                connection.execute(sql.text("SET LOCAL statement_timeout = 0; SET LOCAL deadlock_timeout = '10ms'"))
            if fault.endswith("request"):
                connection.execute(sql.text("SELECT pg_cancel_backend(pg_backend_pid())"))
            connection.execute(sql.text(second))

    def use_meanwhile() -> None:
        assert texts(store, id) == ["Hello?"]
        assert put(store, "And now?")

    holder = threading.Thread(target=hold_a_lock)
    holder.start()
    try:
        with pytest.raises(DatabaseUnavailable, match="took too long for this; try again later") as caught:
            use()
        assert fault in cause_of(caught.value)
        use_meanwhile()
    finally:
        hold.set()
        holder.join()
    assert store.database.failure is None
    assert not caplog.records, "whoever shows the failure to a visitor logs it"


def test_a_connection_that_the_server_has_ended_is_replaced(store: ConversationStore, server: Postgres) -> None:
    id = put(store, "Hello?")
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'demo'"
    with closing(Database(server.url())) as database, database.transaction() as connection:
        assert connection.execute(sql.text(others)).all()
    assert texts(store, id) == ["Hello?"]
    assert store.database.failure is None


def test_a_migration_may_take_longer_than_a_statement(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_limits, "STATEMENT_S", 0.5)
    monkeypatch.setattr(server_limits, "SILENCE_S", 0.5)

    def migrate(connection: sql.Connection, _: str) -> None:
        connection.execute(sql.text("SELECT pg_sleep(2)"))

    monkeypatch.setattr(database_module, "migrate", migrate)
    Database(server.url()).close()


def test_processes_that_start_at_once_migrate_one_after_the_other(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Database(server.url())) as database, database.transaction(write=True) as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    real, inside, most = database_module.migrate, [0], [0]
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

    def migrate(connection: sql.Connection, name: str) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        if not tables:
            wait_until(lambda: connection.scalar(sql.text(waiting)) == 3 or most[0] > 1, "the others wait for their turn")
        real(connection, name)
        tables.append(sql.inspect(connection).has_table(conversations.name))
        inside[0] -= 1

    tables: list[bool] = []
    monkeypatch.setattr(database_module, "migrate", migrate)
    with ThreadPoolExecutor(4) as pool:
        for opened in [pool.submit(Database, server.url()) for _ in range(4)]:
            opened.result().close()
    assert (most[0], tables) == (1, [True] * 4)


def test_a_connection_that_only_reads_takes_its_time_and_changes_nothing(server: Postgres) -> None:
    url = read_database_url(server.url())
    with closing(Database(server.url())) as database:
        id = put(ConversationStore(database), "Hello")
        with database.transaction(write=True) as connection:
            connection.exec_driver_sql("ALTER ROLE demo SET statement_timeout = 100")
        try:
            with read_only_connection(url) as connection:
                connection.exec_driver_sql("SELECT pg_sleep(0.5)")
                assert id in connection.execute(sql.text("SELECT id FROM conversations")).scalars().all()
            with pytest.raises(ConfigError, match="a read-only transaction"), read_only_connection(url) as reader:
                reader.execute(sql.delete(conversations))
        finally:
            with database.transaction(write=True) as connection:
                connection.exec_driver_sql("ALTER ROLE demo RESET statement_timeout")


def test_a_server_that_does_not_answer_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []

    def lose_patience(condition: Callable[[], object], log: Any) -> None:
        wait_until(condition, log)
        folders.append(log.__self__.parent)
        raise AssertionError("it does not answer")

    monkeypatch.setattr(postgres_module, "wait_until", lose_patience)
    with pytest.raises(AssertionError, match="it does not answer"), running_postgres():
        pass
    [folder] = folders
    assert not folder.exists()
    assert not [name for name in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in read_or_nothing(name)]


def read_or_nothing(file: Path) -> bytes:
    """Of a process that may have ended."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
