"""The choice of the number of threads, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from mllama_demo.engine.torch import threads


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "most", "chosen"),
    [
        ({1: 1.0}, 1, 1),
        ({1: 1.0, 2: 0.6}, 2, 2),
        ({1: 1.0, 2: 0.95}, 2, 1),
        ({1: 1.0, 2: 10.0, 4: 0.1}, 4, 1),
        ({1: 1.0, 2: 0.5, 4: 0.3, 6: 0.29}, 6, 4),
        ({1: 1.0, 2: 0.5, 4: 0.3, 6: 0.2}, 6, 6),
    ],
)
def test_more_threads_are_taken_while_they_are_worth_it(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], most: int, chosen: int
) -> None:
    now = [0.0]

    def step() -> None:
        now[0] += seconds[torch.get_num_threads()]

    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert threads.choose_threads(step, most) == chosen
    assert torch.get_num_threads() == chosen
