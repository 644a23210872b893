"""Runs in the database: each owner's own, so many of them, and as they were."""

from __future__ import annotations

import threading
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest

from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.explore.edits import without_branch
from mllama_demo.storage.database import Database
from mllama_demo.storage.explore_runs import ExploreRuns
from tests.support.explore_runs import branched, hostile_run, run_of, saying


@pytest.fixture
def kept(database: Database) -> ExploreRuns:
    return ExploreRuns(database, 200)


def test_a_kept_run_is_listed_opened_and_deleted_by_its_owner(kept: ExploreRuns) -> None:
    first, second = run_of(), hostile_run()
    kept.save("ann", first)
    kept.save("ann", second)
    assert {(line.id, line.title, line.cells) for line in kept.list("ann")} == {
        (first.id, "What is it?", 8),
        (second.id, "<script>x</script>", 1),
    }
    assert kept.load("ann", first.id) == first
    assert kept.load("ann", second.id) == second
    kept.delete("ann", first.id)
    assert [line.id for line in kept.list("ann")] == [second.id]


def test_nobody_sees_or_changes_the_runs_of_others(kept: ExploreRuns) -> None:
    run = run_of()
    kept.save("ann", run)
    assert kept.list("bob") == []
    for attempt in (lambda: kept.load("bob", run.id), lambda: kept.delete("bob", run.id), lambda: kept.save("bob", run)):
        with pytest.raises(NotFound, match=run.id):
            attempt()
    assert kept.load("ann", run.id) == run


def test_saving_again_replaces_and_a_picture_stays_as_long_as_a_run_shows_it(kept: ExploreRuns) -> None:
    first, second = run_of(), run_of()
    kept.save("ann", first)
    kept.save("ann", second)
    kept.save("ann", saying(first, "Another answer"))
    assert kept.load("ann", first.id).cells[0].text == "Another answer"
    kept.delete("ann", first.id)
    assert kept.load("ann", second.id) == second
    kept.delete("ann", second.id)
    with kept._database.transaction() as connection:
        assert connection.exec_driver_sql("select count(*) from explore_pictures").scalar() == 0


def test_the_run_that_came_first_makes_way_also_for_an_older_one_that_is_imported(database: Database) -> None:
    kept = ExploreRuns(database, 2)
    first, second, third = (run_of() for _ in range(3))
    old = run_of(created=datetime(2020, 1, 1, tzinfo=timezone.utc))
    of_bob = run_of()
    kept.save("bob", of_bob)
    for run, left in ((first, [first]), (second, [second, first]), (old, [old, second]), (third, [third, old])):
        kept.save("ann", run)
        assert [line.id for line in kept.list("ann")] == [one.id for one in left]
    for gone in (first, second):
        with pytest.raises(NotFound):
            kept.load("ann", gone.id)
    kept.save("ann", saying(old, "Changed"))
    assert [line.id for line in kept.list("ann")] == [third.id, old.id]
    assert [line.id for line in kept.list("bob")] == [of_bob.id]
    with database.transaction() as connection:
        assert connection.exec_driver_sql("select count(*) from explore_pictures").scalar() == 1


def test_of_two_changes_at_the_same_time_none_is_lost(tmp_path: Path) -> None:
    with closing(Database(f"sqlite:///{tmp_path / 'a.sqlite3'}")) as database:
        kept, run = ExploreRuns(database, 5), run_of()
        kept.save("ann", run)
        threads = [
            threading.Thread(target=lambda: kept.change("ann", run.id, lambda now: branched(now, parent=0))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [branch.number for branch in kept.load("ann", run.id).branches] == list(range(1, 9))
        assert kept.load("ann", run.id).image == run.image


def test_a_change_that_fails_leaves_the_run_as_it_was(kept: ExploreRuns) -> None:
    run = run_of()
    kept.save("ann", run)
    with pytest.raises(NotFound, match=run.id):
        kept.change("bob", run.id, lambda now: now)
    with pytest.raises(BadRequest):
        kept.change("ann", run.id, lambda now: without_branch(now, 0))
    assert kept.load("ann", run.id) == run
