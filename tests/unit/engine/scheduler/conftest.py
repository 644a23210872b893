"""Benches whose promises are checked when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.scheduler_harness import SchedulerHarness


@pytest.fixture
def harness() -> Iterator[Callable[..., SchedulerHarness]]:
    """Makes benches; what holds for every request is checked when the test is over."""
    made: list[SchedulerHarness] = []

    def make(*args, **kwargs) -> SchedulerHarness:
        made.append(SchedulerHarness(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.check()
