"""Links in SQL that show one Explore run to everyone who has the link. Knows nothing of what a run contains."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from mllama_demo.errors import NotFound
from mllama_demo.storage.explore_runs import ExploreRuns, StoredRun
from mllama_demo.storage.schema import run_shares as _shares
from mllama_demo.storage.share_links import ShareGone, ShareLinks


@dataclass(frozen=True)
class RunShare:
    """What a link shows: the run as it is now.

    Attributes:
        created, expires: UTC.
    """

    run: StoredRun
    created: datetime
    expires: datetime


class RunShares:
    """The links of all owners. Every method is one or two short transactions and may be called from any thread."""

    def __init__(self, runs: ExploreRuns) -> None:
        self._runs = runs
        self._links = ShareLinks(runs.database, _shares, _shares.c.run_id, "run")
        self.active, self.revoke, self.erase = self._links.active, self._links.revoke, self._links.erase

    def create(self, owner: str, run_id: str, lifetime: str) -> str:
        """Creates a link to a run; returns the link's token. lifetime: a key of LIFETIMES. Raises NotFound and BadRequest."""
        self._runs.image(owner, run_id)  # raises NotFound for an unknown run
        return self._links.create(owner, run_id, lifetime)

    def open(self, token: str) -> RunShare:
        """What a link shows. Raises ShareGone when it is no longer valid, NotFound when it is unknown."""
        found = self._links.find(token)
        try:
            run = self._runs.load(found["owner"], found["run_id"])
        except NotFound:
            raise ShareGone("The run that was shared here has been deleted.") from None
        created, expires = (found[name].replace(tzinfo=timezone.utc) for name in ("created", "expires"))
        return RunShare(run, created, expires)
