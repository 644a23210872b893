"""What the figures of a soak say about promises."""

from __future__ import annotations

import pytest

from benchmarks.soak import Load, judge

USED = {"before": {"files": 50, "threads": 14}, "after": {"files": 44, "threads": 21}}


@pytest.mark.parametrize(
    ("minutes", "grows_until_s", "wrong"),
    [(0.5, 30, []), (10, 60, []), (10, 600, ["memory: 722 MB early, 1198 MB at the end"])],
    ids=["half a minute", "in the first minute", "for ten minutes"],
)
def test_memory_may_grow_while_caches_fill_and_not_afterwards(minutes: float, grows_until_s: int, wrong: list[str]) -> None:
    load = Load()
    load.ends["answered"] = 1
    load.memory = [(second, (600 + min(second, grows_until_s)) * 10**6) for second in range(int(60 * minutes) + 1)]
    judge(load, USED, minutes, 300)
    assert load.wrong == wrong
