"""How slow a machine was, by a reference beside work on an unsteady clock."""

from __future__ import annotations

import pytest

from benchmarks import machine_speed
from benchmarks.machine_speed import Reference
from mllama_demo.engine.simulated.runner import VirtualClock

SLOWNESS = [1.0, 3.0, 0.5, 2.0, 1.0, 0.5]


def test_a_reference_finds_the_slowness_beside_work_that_its_clock_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = VirtualClock()
    monkeypatch.setattr(machine_speed.time, "perf_counter", wall.now)
    reference = Reference(lambda: wall.advance(0.004 * SLOWNESS[int(reference.now() / 0.5)]))
    works = 299
    for _ in range(works):
        wall.advance(0.01)
        reference.take_if_due()
    assert reference.slowness(0.0, 2.99, usual_s=0.004) == pytest.approx(SLOWNESS)
    assert reference.now() == pytest.approx(works * 0.01)
    assert wall.now() > reference.now()
    idle_after = reference.slowness(2.0, 4.0, usual_s=0.008)
    assert idle_after == pytest.approx([0.5, 0.25, 0.25, 0.25, 0.25])
