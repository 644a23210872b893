"""Benches whose promises are checked when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.scheduler_bench import Bench


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Makes benches; what holds for every request is checked when the test is over."""
    made: list[Bench] = []

    def make(*args, **kwargs) -> Bench:
        made.append(Bench(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.check()
