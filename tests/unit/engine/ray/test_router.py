"""The replica of a conversation."""

from __future__ import annotations

from collections import Counter

import pytest

router = pytest.importorskip("mllama_demo.engine.ray.router", reason="Ray is not installed", exc_type=ImportError)

NAMES = ["alpha", "beta", "gamma", "delta"]


def test_conversations_are_spread_evenly_and_always_go_home() -> None:
    homes = Counter(router.home_of(f"conversation {index}", NAMES) for index in range(4000))
    assert all(900 < count < 1100 for count in homes.values())
    for index in range(50):
        key = f"conversation {index}"
        assert NAMES[router.home_of(key, NAMES)] == NAMES[::-1][router.home_of(key, NAMES[::-1])], (
            "whatever the order of the replicas"
        )


def test_a_replica_that_goes_moves_only_its_own_conversations() -> None:
    keys = [f"conversation {index}" for index in range(500)]
    for key in keys:
        before = NAMES[router.home_of(key, NAMES)]
        if before != "beta":
            left = [name for name in NAMES if name != "beta"]
            assert left[router.home_of(key, left)] == before


@pytest.mark.parametrize(
    ("home", "others", "preferred"),
    [(0, [0], True), (3, [0], True), (4, [0], False), (4, [3], False), (4, [4], True), (9, [5, 7], False), (8, [5, 7], True)],
)
def test_the_home_of_a_conversation_is_left_only_when_it_is_clearly_busier(home: int, others: list[int], preferred: bool) -> None:
    assert router.is_preferred(home, others, slots=4) == preferred
