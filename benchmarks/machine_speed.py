"""How fast a machine was while an engine answered, second by second, and a virtual clock that is as fast.

Other work on a machine slows an engine down for seconds at a time. Questions wait longest then, and a profile has only mean
times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.runner import ModelRunner, Sampled
from mllama_demo.engine.simulated.profile import DeviceProfile
from mllama_demo.engine.simulated.runner import SimulatedRunner, VirtualClock

Call = Callable[[SimulatedRunner], object]


class RecordingRunner:
    """A ModelRunner that writes down how it is called, so that a simulated one can be called in the same way.

    Attributes:
        steps: The steps of the scheduler: when each began, how long it lasted, in seconds, and its calls.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.slots, self.max_seq_len = runner.slots, runner.max_seq_len
        self.steps: list[tuple[float, float, list[Call]]] = []
        self._calls: list[Call] = []

    def end_step(self, began_s: float, took_s: float) -> None:
        self.steps.append((began_s, took_s, self._calls))
        self._calls = []

    def slowness(self, profile: DeviceProfile) -> dict[int, float]:
        """How many times as long as by the profile the steps took that began in each second with one."""
        times = VirtualClock()
        simulated = SimulatedRunner(profile, slots=self.slots, max_seq_len=self.max_seq_len, take_time=times.advance)
        actual: defaultdict[int, float] = defaultdict(float)
        expected: defaultdict[int, float] = defaultdict(float)
        for began_s, took_s, calls in self.steps:
            before = times.now()
            for call in calls:
                call(simulated)
            actual[int(began_s)] += took_s
            expected[int(began_s)] += times.now() - before
        return {second: actual[second] / expected[second] for second in actual if expected[second]}

    def choose_slot(self, free: Sequence[int], request: GenerationRequest) -> int:
        return self._runner.choose_slot(free, request)

    def begin(self, slot: int, request: GenerationRequest) -> int:
        self._calls.append(lambda runner: runner.begin(slot, request))
        return self._runner.begin(slot, request)

    def read_piece(self, slot: int) -> Sampled | None:
        self._calls.append(lambda runner: runner.read_piece(slot))
        return self._runner.read_piece(slot)

    def decode(self, slots: Sequence[int]) -> list[Sampled]:
        self._calls.append(lambda runner: runner.decode(slots))
        return self._runner.decode(slots)

    def release(self, slot: int) -> None:
        self._calls.append(lambda runner: runner.release(slot))
        self._runner.release(slot)


class UnsteadyClock(VirtualClock):
    """The clock of a device that takes so many times as long in each second."""

    def __init__(self, slowness: Mapping[int, float]) -> None:
        super().__init__()
        self._slowness = slowness

    def advance(self, seconds: float) -> None:
        super().advance(seconds * self._slowness.get(int(self.time), 1.0))
