"""Stores Run objects as the JSON documents of storage.explore_runs."""

from __future__ import annotations

from collections.abc import Callable

from mllama_demo.explore.results import Run
from mllama_demo.storage.explore_runs import ExploreRuns, RunImage, RunSummary, StoredRun


class RunStore:
    """The methods of ExploreRuns, which it describes, with Run objects in place of documents."""

    def __init__(self, runs: ExploreRuns) -> None:
        self._runs = runs
        self.list = runs.list
        self.delete = runs.delete

    def save(self, owner: str, run: Run) -> None:
        self._runs.save(owner, _to_stored(run))

    def change(self, owner: str, id: str, change: Callable[[Run], Run]) -> Run:
        """Returns the changed run."""
        changed: list[Run] = []

        def apply(stored: StoredRun) -> StoredRun:
            changed.append(change(_from_stored(stored)))
            return _to_stored(changed[0])

        self._runs.change(owner, id, apply)
        return changed[0]

    def load(self, owner: str, id: str) -> Run:
        return _from_stored(self._runs.load(owner, id))


def _to_stored(run: Run) -> StoredRun:
    summary = RunSummary(run.id, run.title, run.model, run.created, len(run.cells), run.failed_count)
    if run.image is None:
        return StoredRun(summary, run.model_dump_json().encode(), None)
    bare = run.model_copy(update={"image": run.image.model_copy(update={"data": b""})})
    return StoredRun(summary, bare.model_dump_json().encode(), RunImage(run.image.digest, run.image.data))


def _from_stored(stored: StoredRun) -> Run:
    run = Run.model_validate_json(stored.document)
    if run.image is None or stored.image is None:
        return run
    return run.model_copy(update={"image": run.image.model_copy(update={"data": stored.image.data})})
