"""Stored explore runs: each owner's own, a limited number of them, and one copy of each image."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest

from mllama_demo.errors import NotFound
from mllama_demo.storage.database import Database
from mllama_demo.storage.explore_runs import ExploreRuns, RunImage, RunSummary, StoredRun

IMAGE = RunImage("0" * 64, b"a file")


def stored(id: str, document: bytes = b"{}", created: datetime = datetime(2026, 11, 29, tzinfo=timezone.utc)) -> StoredRun:
    return StoredRun(RunSummary(id, f"Run {id}", "a model", created, 8, 1, has_image=True), document, IMAGE)


def images(database: Database) -> int | None:
    with database.transaction() as connection:
        return connection.exec_driver_sql("select count(*) from explore_pictures").scalar()


@pytest.fixture
def runs(database: Database) -> ExploreRuns:
    return ExploreRuns(database, 200)


def test_nobody_sees_or_changes_the_runs_of_others(runs: ExploreRuns) -> None:
    run = stored("a")
    runs.save("ann", run)
    assert runs.list("ann") == [run.summary]
    assert runs.list("bob") == []
    for attempt in (
        lambda: runs.load("bob", "a"),
        lambda: runs.delete("bob", "a"),
        lambda: runs.save("bob", stored("a", b"[]")),
        lambda: runs.change("bob", "a", lambda now: stored("a", b"[]")),
    ):
        with pytest.raises(NotFound, match="no run a"):
            attempt()
    assert runs.load("ann", "a") == run


def test_saving_again_replaces_and_an_image_stays_as_long_as_a_run_has_it(runs: ExploreRuns, database: Database) -> None:
    first, second = stored("a"), stored("b")
    runs.save("ann", first)
    runs.save("ann", second)
    assert images(database) == 1
    runs.save("ann", stored("a", b"[1]"))
    assert runs.load("ann", "a").document == b"[1]"
    runs.delete("ann", "a")
    assert runs.load("ann", "b") == second
    runs.delete("ann", "b")
    assert images(database) == 0


def test_the_run_that_was_stored_first_is_deleted_at_the_limit_whatever_its_date(database: Database) -> None:
    runs = ExploreRuns(database, 2)
    runs.save("bob", stored("of bob"))
    imported = stored("old", created=datetime(2020, 1, 1, tzinfo=timezone.utc))
    for run, left in ((stored("a"), ["a"]), (stored("b"), ["b", "a"]), (imported, ["old", "b"]), (stored("c"), ["c", "old"])):
        runs.save("ann", run)
        assert [line.id for line in runs.list("ann")] == left
    for gone in ("a", "b"):
        with pytest.raises(NotFound):
            runs.load("ann", gone)
    runs.save("ann", stored("old", b"[1]"))
    assert [line.id for line in runs.list("ann")] == ["c", "old"]
    assert [line.id for line in runs.list("bob")] == ["of bob"]
    assert images(database) == 1


def test_runs_of_the_tour_do_not_displace_the_runs_of_a_visitor(database: Database) -> None:
    runs = ExploreRuns(database, 2)
    runs.save("ann", stored("mine"))
    for id in ("t1", "t2", "t3"):
        run = stored(id)
        runs.save("ann", replace(run, summary=replace(run.summary, tour=True)))
    assert [(line.id, line.tour) for line in runs.list("ann")] == [("t3", True), ("t2", True), ("mine", False)]


def test_the_image_of_a_run_is_read_without_its_document(runs: ExploreRuns) -> None:
    runs.save("ann", stored("a"))
    runs.save("ann", replace(stored("b"), image=None))
    assert runs.image("ann", "a") == IMAGE.data
    assert runs.image("ann", "b") is None
    with pytest.raises(NotFound, match="no run a"):
        runs.image("bob", "a")
