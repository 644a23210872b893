"""Stores Run objects as the JSON documents of storage.explore_runs, and opens shared ones."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cachetools import LRUCache

from mllama_demo.explore.results import Run
from mllama_demo.storage.explore_runs import ExploreRuns, RunImage, RunSummary, StoredRun
from mllama_demo.storage.run_shares import RunShare, RunShares

# Validating a large run takes a second, and a slider of the page asks many times a second. A run needs several times the memory
# of its document.
CACHED_DOCUMENT_BYTES = 16 * 2**20


class RunStore:
    """The methods of ExploreRuns, which it describes, with Run objects in place of documents."""

    def __init__(self, runs: ExploreRuns, shares: RunShares) -> None:
        self._runs, self._shares = runs, shares
        self.list, self.delete, self.image = runs.list, runs.delete, runs.image
        self.share, self.shared_until, self.stop_sharing = shares.create, shares.active, shares.revoke
        # By id: a document and the run made of it. Another process may have changed the stored document.
        self._cache: LRUCache[str, tuple[bytes, Run]] = LRUCache(CACHED_DOCUMENT_BYTES, getsizeof=lambda pair: len(pair[0]))
        self._lock = threading.Lock()

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
        return self._cached(self._runs.load(owner, id))

    def open_share(self, token: str) -> tuple[Run, RunShare]:
        """What a link shows. Raises ShareGone and NotFound, see RunShares.open."""
        share = self._shares.open(token)
        return self._cached(share.run), share

    def _cached(self, stored: StoredRun) -> Run:
        with self._lock:
            document, run = self._cache.get(stored.summary.id, (b"", None))
        if run is None or document != stored.document:
            run = _from_stored(stored)
            if len(stored.document) <= CACHED_DOCUMENT_BYTES:
                with self._lock:
                    self._cache[stored.summary.id] = stored.document, run
        return run


def _to_stored(run: Run) -> StoredRun:
    shown = (run.id, run.title, run.model, run.created, len(run.cells), run.failed_count)
    summary = RunSummary(*shown, has_image=run.image is not None, tour=run.tour)
    if run.image is None:
        return StoredRun(summary, run.model_dump_json().encode(), None)
    bare = run.model_copy(update={"image": run.image.model_copy(update={"data": b""})})
    return StoredRun(summary, bare.model_dump_json().encode(), RunImage(run.image.digest, run.image.data))


def _from_stored(stored: StoredRun) -> Run:
    run = Run.model_validate_json(stored.document)
    if run.image is None or stored.image is None:
        return run
    return run.model_copy(update={"image": run.image.model_copy(update={"data": stored.image.data})})
