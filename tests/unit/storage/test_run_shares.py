"""Links to an Explore run: the run as it is now, for everyone who has the link, until it expires or is revoked."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from mllama_demo.errors import NotFound
from mllama_demo.storage.database import Database
from mllama_demo.storage.explore_runs import ExploreRuns, RunSummary, StoredRun
from mllama_demo.storage.run_shares import RunShares
from mllama_demo.storage.share_links import ShareGone


def stored(document: bytes = b"{}") -> StoredRun:
    return StoredRun(RunSummary("a", "Run", "a model", datetime(2026, 11, 29, tzinfo=timezone.utc), 8, 1), document, None)


@pytest.fixture
def runs(database: Database) -> ExploreRuns:
    runs = ExploreRuns(database, 200)
    runs.save("ann", stored())
    return runs


def test_a_link_shows_the_run_as_it_is_now(runs: ExploreRuns) -> None:
    shares = RunShares(runs)
    token = shares.create("ann", "a", "1 day")
    runs.save("ann", stored(b"[1]"))
    assert shares.open(token).run == stored(b"[1]")
    assert len(shares.active("ann", "a")) == 1


def test_a_link_ends_when_it_expires_or_is_revoked_or_its_run_is_deleted(runs: ExploreRuns, later) -> None:
    shares = RunShares(runs)
    with pytest.raises(NotFound, match="no run a"):
        shares.create("bob", "a", "1 day")
    short, revoked, token = (shares.create("ann", "a", lifetime) for lifetime in ("1 hour", "1 day", "1 day"))
    later(timedelta(hours=2))
    with pytest.raises(ShareGone, match="link to this run has expired"):
        shares.open(short)
    runs.delete("ann", "a")
    with pytest.raises(ShareGone, match="has been deleted"):
        shares.open(token)
    assert shares.revoke("ann", "a") == 2
    with pytest.raises(ShareGone, match="stopped sharing it"):
        shares.open(revoked)
    with pytest.raises(NotFound, match="no shared run"):
        shares.open("x" * 43)
