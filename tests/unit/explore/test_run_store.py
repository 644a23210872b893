"""Runs come back from the database as they were saved, also when several threads change one of them."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.explore import run_store as run_store_module
from mllama_demo.explore.edits import with_title, without_branch
from mllama_demo.explore.run_store import RunStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.explore_runs import ExploreRuns
from tests.support.explore_runs import hostile_run, make_run, run_store, with_sampled_branch


@pytest.fixture
def runs(database: Database) -> RunStore:
    return run_store(database)


def test_a_run_is_listed_loaded_and_deleted(runs: RunStore) -> None:
    first, second = make_run(), hostile_run()
    runs.save("ann", first)
    runs.save("ann", second)
    assert {(line.id, line.title, line.cells) for line in runs.list("ann")} == {
        (first.id, "What is it?", 8),
        (second.id, "<script>x</script>", 1),
    }
    assert runs.load("ann", first.id) == first
    assert runs.load("ann", second.id) == second
    runs.delete("ann", first.id)
    assert [line.id for line in runs.list("ann")] == [second.id]


def test_concurrent_changes_are_all_saved(tmp_path: Path) -> None:
    with closing(Database(f"sqlite:///{tmp_path / 'a.sqlite3'}")) as database:
        runs, run = run_store(database), make_run()
        runs.save("ann", run)
        threads = [
            threading.Thread(target=lambda: runs.change("ann", run.id, lambda now: with_sampled_branch(now, parent=0)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [branch.number for branch in runs.load("ann", run.id).branches] == list(range(1, 9))
        assert runs.load("ann", run.id).image == run.image


def test_a_failed_change_leaves_the_run_unchanged(runs: RunStore) -> None:
    run = make_run()
    runs.save("ann", run)
    with pytest.raises(NotFound, match=run.id):
        runs.change("bob", run.id, lambda now: now)
    with pytest.raises(BadRequest):
        runs.change("ann", run.id, lambda now: without_branch(now, 0))
    assert runs.load("ann", run.id) == run


def test_a_version_1_document_is_loaded_without_branches(runs: RunStore, database: Database) -> None:
    run = make_run()
    runs.save("ann", run)
    stored = ExploreRuns(database, 200).load("ann", run.id)
    document = json.loads(stored.document)
    document["version"] = 1
    del document["branches"]
    ExploreRuns(database, 200).save("ann", replace(stored, document=json.dumps(document).encode()))
    assert runs.load("ann", run.id) == run


def test_a_change_by_another_process_and_a_run_too_large_for_the_cache_are_loaded(
    runs: RunStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = make_run(), run_store(database)
    runs.save("ann", run)
    assert runs.load("ann", run.id) == run
    other.change("ann", run.id, lambda now: with_title(now, "Renamed"))
    assert runs.load("ann", run.id).title == "Renamed"
    monkeypatch.setattr(run_store_module, "CACHED_DOCUMENT_BYTES", 10)
    large = run_store(database)
    assert large.load("ann", run.id) == large.load("ann", run.id)
