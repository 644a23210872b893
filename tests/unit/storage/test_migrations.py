# pyright: reportOptionalMemberAccess=false
"""Databases of earlier versions keep all their content; those of newer versions and of other programs are refused."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sql

from mllama_demo.chat.conversation import Message
from mllama_demo.errors import ConfigError, NotFound
from mllama_demo.storage import migrations
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.drafts import Drafts
from mllama_demo.storage.explore_runs import ExploreRuns
from mllama_demo.storage.feedback import Feedback
from mllama_demo.storage.migrations import latest_version
from mllama_demo.storage.sessions import ADMIN_KEY, Sessions
from mllama_demo.storage.shares import ShareGone, Shares
from tests.support.explore_runs import run_store

A, B, C, D, E, F = (letter * 32 for letter in "abcdef")


def connect(url: str) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None))


def write_old_database(url: str, version: int) -> None:
    """Writes what the program of that schema version left on disk."""
    dump = Path(__file__).with_name("databases") / f"version_{version}.sql"
    with connect(url) as connection:
        connection.executescript(dump.read_text(encoding="utf-8"))


class TestVersion2:
    """databases/version_2.sql has something in every table. Every secret in it belongs to this test alone."""

    WRITTEN = datetime(2026, 11, 29, 11, 6, 38)
    SHARED, REVOKED = "T2piPJeoEd65Pm9asYG0MVEV41aTd0kS5WBOFA-Kq50", "8i_j9K12nz2g2ktDwI6xGQ-UjSKYvWQhfzKm9LT7w3o"
    HASH = "scrypt$14$8$5$gTRlJQI_ohhTJZcxL-mfsg$ZE2oKjR60rU6pMg3WdPVpPriEg1iXFbHWdhxamMnZKU"
    BENS, ADMINS = "0OCIenXjiavHFZ-nljRu-_0Jbkmk-TnKn6OsFv-JMfk", "_--csUnM7hBK2g8a3-ijBUr79K9RwrEpbo0q9bg1JBw"

    @pytest.fixture(params=[False, True], ids=["opened once", "opened before"])
    def database(self, request, url, monkeypatch):
        """The database a minute after it was written, which the tests open for the first or the second time."""
        monkeypatch.setattr(Database, "now", lambda self: TestVersion2.WRITTEN + timedelta(minutes=1))
        write_old_database(url, 2)
        if request.param:
            Database(url).close()
        with closing(Database(url)) as database:
            yield database

    @pytest.fixture
    def store(self, database):
        return ConversationStore(database)

    def test_conversations_keep_all_versions_metadata_and_images(self, store):
        assert [(summary.title, summary.updated.microsecond) for summary in store.list("ann")] == [("Red things", 651948)]
        assert {summary.title for summary in store.list("user:ben")} == {"Story", "Sums"}
        tree = store.tree("ann", A)
        assert [(node.number, node.parent, node.chosen, node.message.text) for node in tree.nodes] == [
            (0, None, True, "What is it?"),
            (1, 0, True, "A red square."),
            (2, 1, True, "And now?"),
            (3, 2, False, "Still red."),
            (4, 2, True, "Redder."),
            (5, 1, False, "And the size?"),
            (6, 5, True, "Six by four."),
        ]
        question, answer = tree.conversation().messages[:2]
        assert hashlib.sha256(store.image_bytes(question.image.digest)).hexdigest() == question.image.digest
        assert (question.image.name, question.image.width, question.image.height) == ("red.png", 6, 4)
        assert answer.metadata["image"]["digest"] == question.image.digest
        assert (answer.metadata["ttft_s"], answer.metadata["sampling"]["seed"]) == (0.42, 7)

    def test_a_deleted_conversation_can_still_be_restored(self, store):
        with pytest.raises(NotFound):
            store.load("ann", D)
        store.restore("ann", D)
        image = store.load("ann", D).messages[0].image
        assert store.image_bytes(image.digest)

    def test_an_abandoned_draft_becomes_an_answer(self, store):
        Drafts(store).recover("user:ben")
        answer = store.load("user:ben", B).messages[-1]
        assert (answer.role, answer.text, answer.metadata["reason"]) == ("assistant", "Once there", "cut_off")

    def test_links_work_or_are_revoked_as_before(self, store):
        shares = Shares(store)
        share = shares.open(self.SHARED)
        assert [message.text for message in share.conversation.messages] == [
            "What is it?",
            "A red square.",
            "And now?",
            "Redder.",
        ]
        assert share.expires - share.created == timedelta(weeks=1)
        with pytest.raises(ShareGone, match="stopped sharing"):
            shares.open(self.REVOKED)

    def test_feedback_keeps_its_notes_and_texts(self, store):
        opinions = {opinion.conversation_id: opinion for opinion in Feedback(store).latest()}
        assert (opinions[A].good, opinions[A].note, opinions[A].answer, opinions[A].user) == (
            True,
            "right",
            "A red square.",
            None,
        )
        assert (opinions[C].good, opinions[C].model, opinions[C].question, opinions[C].user) == (
            False,
            "the model",
            "2 + 2?",
            "ben",
        )

    def test_signed_in_users_stay_signed_in(self, database):
        sessions = Sessions(database, {"ben": self.HASH, ADMIN_KEY: "the admin key"})
        assert (sessions.subject(self.BENS), sessions.subject(self.ADMINS)) == ("ben", ADMIN_KEY)
        assert sessions.password_matches("ben", "correct horse")

    def test_explore_runs_keep_their_branches_and_images(self, database):
        runs = run_store(database)
        run, plain = runs.load("ann", E), runs.load("user:ben", F)
        assert [run.answer(index).text for index in sorted(run.indices)] == [
            "the74 the124 mat105 sky9 ",
            "the164 the124 mat105 sky9 ",
            "the74 sun108 the24 mat15 ",
        ]
        assert hashlib.sha256(run.image.data).hexdigest() == run.image.digest
        assert (plain.answer(0).text, plain.image) == ("sky79 on183 ", None)
        (summary,) = runs.list("ann")
        assert (summary.title, summary.cells, summary.failed) == ("What is it?", 2, 0)
        assert summary.created == self.WRITTEN.replace(tzinfo=timezone.utc)


def test_messages_of_version_1_become_a_tree(url):
    write_old_database(url, 1)
    for _ in range(2):
        with closing(Database(url)) as database:
            store = ConversationStore(database)
            conversation = store.load("ann", A)
            assert [m.text for m in conversation.messages] == ["What is it?", "A red square.", "And now?", "Still red."]
            assert conversation.messages[1].metadata["completion_tokens"] == 5
            digest = conversation.messages[0].image.digest
            assert hashlib.sha256(store.image_bytes(digest)).hexdigest() == digest
            assert [node.parent for node in store.tree("ann", A).nodes] == [None, 0, 1, 2]
            assert [summary.title for summary in store.list("bob")] == ["Hello"]
    with closing(Database(url)) as database:
        store = ConversationStore(database)
        store.save("ann", conversation.cut(3).add(Message("assistant", "Redder.")))
        assert store.select_version("ann", A, 3).conversation() == conversation
        store.delete("bob", B)
        store.restore("bob", B)


def test_early_runs_of_version_2_are_listed_in_the_order_of_their_creation(url):
    """The first programs of version 2 did not record when a run was stored, and some had no Explore page at all."""
    write_old_database(url, 2)
    with connect(url) as connection:
        connection.execute("ALTER TABLE explore_runs DROP COLUMN kept")
        connection.execute("UPDATE explore_runs SET owner = 'ann', created = '2026-01-01 00:00:00.000000' WHERE id = ?", (E,))
        connection.execute("UPDATE explore_runs SET owner = 'ann', created = '2026-01-02 00:00:00.000000' WHERE id = ?", (F,))
        connection.execute("DROP TABLE feedback")
    with closing(Database(url)) as database:
        assert [line.id for line in ExploreRuns(database, 5).list("ann")] == [F, E]
        assert Feedback(ConversationStore(database)).counts() == (0, 0)


@pytest.mark.parametrize(
    ("version", "expected"), [(1, ["to 2", "to 3", "to 4", "to 5"]), (2, ["to 3", "to 4", "to 5"]), (None, [])]
)
def test_each_migration_runs_once_and_in_order(url, monkeypatch, version, expected):
    called = []

    def step(name, migration):
        return lambda connection: (called.append(name), migration(connection))

    steps = [step(f"to {n}", migration) for n, migration in enumerate((*migrations.MIGRATIONS, lambda connection: None), start=2)]
    monkeypatch.setattr(migrations, "MIGRATIONS", tuple(steps))
    if version:
        write_old_database(url, version)
    for _ in range(2):
        Database(url).close()
    assert called == expected
    with connect(url) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(5,)]


def test_a_migration_that_fails_leaves_the_database_as_it_was(url, monkeypatch):
    def fail(connection):
        raise OSError("out of disk space")

    write_old_database(url, 1)
    with connect(url) as connection:
        before = list(connection.iterdump())
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, fail))
    with pytest.raises(ConfigError, match="out of disk space"):
        Database(url)
    with connect(url) as connection:
        assert list(connection.iterdump()) == before


def test_a_database_of_a_newer_version_is_refused_unchanged(url):
    Database(url).close()
    newer = latest_version() + 1
    with connect(url) as connection:
        connection.execute("UPDATE schema_version SET version = ?", (newer,))
        connection.execute("DROP TABLE drafts")
        before = list(connection.iterdump())
    with pytest.raises(ConfigError, match=f"newer version.*schema {newer}, this one knows {newer - 1}"):
        Database(url)
    with connect(url) as connection:
        assert list(connection.iterdump()) == before


def test_a_database_of_another_program_is_left_alone(url):
    with connect(url) as connection:
        connection.execute("CREATE TABLE images (id INTEGER PRIMARY KEY)")
    with pytest.raises(ConfigError, match="another program"):
        Database(url)
    with connect(url) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("images",)]


@pytest.mark.parametrize("version", [1, 2])
def test_a_migrated_database_has_the_schema_of_a_new_one(url, version):
    def schema(url: str) -> dict[str, tuple[list[str], list[str]]]:
        with closing(Database(url)) as database, database.transaction() as connection:
            found = sql.inspect(connection)
            return {
                table: (
                    sorted(f"{column['name']} {column['type']} {column['nullable']}" for column in found.get_columns(table)),
                    sorted(f"{index['name']} {index['column_names']}" for index in found.get_indexes(table)),
                )
                for table in found.get_table_names()
            }

    write_old_database(url, version)
    assert schema(url) == schema("sqlite://")
