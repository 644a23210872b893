"""How fast a machine was, by the calls of the scheduler, and a simulation on a clock that is as unsteady."""

from __future__ import annotations

import pytest

from benchmarks.machine_speed import RecordingRunner, UnsteadyClock
from mllama_demo.capacity.simulation import NoText
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.scheduler import Scheduler
from mllama_demo.engine.simulated.profile import DeviceProfile
from mllama_demo.engine.simulated.runner import SimulatedRunner
from mllama_demo.sampling import SamplingParams

DEVICE = DeviceProfile("a device", "a test", True, {32: 0.1}, {1: 0.01}, context_step_s=0.0001, piece_tokens=32)
SLOWNESS = {0: 1.0, 1: 3.0, 2: 0.5}


def test_the_speed_of_each_second_is_found_from_steps_on_an_unsteady_clock() -> None:
    clock = UnsteadyClock(SLOWNESS)
    recorded = RecordingRunner(SimulatedRunner(DEVICE, slots=2, max_seq_len=1000, take_time=clock.advance))
    scheduler = Scheduler(recorded, new_text_stream=lambda _: NoText(), end_of_turn_ids=frozenset(), clock=clock.now)
    for prompt in (40, 100, 70):
        scheduler.submit(GenerationRequest((1,) * prompt, SamplingParams(max_tokens=80, ignore_eos=True)))
    while scheduler.has_work():
        began = clock.now()
        scheduler.step()
        recorded.end_step(began, clock.now() - began)
    assert clock.now() > 3
    found = recorded.slowness(DEVICE)
    assert {second: found[second] for second in SLOWNESS} == pytest.approx(SLOWNESS, rel=0.2)  # a step may reach into the next
