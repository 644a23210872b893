"""The choice of the number of threads, by a clock that the test moves, and how long a thread spins."""

from __future__ import annotations

import os
import subprocess
import sys
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has GNU OpenMP on Linux only")
@pytest.mark.parametrize(
    ("quantized", "own", "expected"),
    [
        (False, {}, ("GOMP_SPINCOUNT = '2000'", "OMP_WAIT_POLICY = 'PASSIVE'")),
        (False, {"GOMP_SPINCOUNT": "77"}, ("GOMP_SPINCOUNT = '77'", "OMP_WAIT_POLICY = 'PASSIVE'")),
        (False, {"OMP_WAIT_POLICY": "ACTIVE"}, ("GOMP_SPINCOUNT = '30000000000'", "OMP_WAIT_POLICY = 'ACTIVE'")),
        (True, {}, ("GOMP_SPINCOUNT = '0'", "OMP_WAIT_POLICY = 'PASSIVE'")),
    ],
    ids=["default", "own count", "own policy", "quantized"],
)
def test_pytorch_reads_how_long_a_thread_spins(quantized: bool, own: dict[str, str], expected: tuple[str, str]) -> None:
    code = f"from mllama_demo.runtime.cpu import limit_spinning; limit_spinning(quantized={quantized}); import torch"
    others = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = {**others, "OMP_DISPLAY_ENV": "VERBOSE", **own}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stderr
    for line in expected:
        assert line in shown
