"""A ModelRunner that computes nothing and takes the time that a device would take, by a clock that need not be a real one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.runner import Sampled
from mllama_demo.engine.simulated.profile import SLOWNESS_PERIOD_S, DeviceProfile

TOKEN_ID = 1  # of every token that is "generated"


class VirtualClock:
    """A clock that stands still unless it is advanced. Times are in seconds."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds

    def advance_to(self, time: float) -> None:
        """Does nothing if that time is past."""
        self.time = max(self.time, time)


class UnsteadyClock(VirtualClock):
    """The clock of a device that is not equally fast at all times.

    Args:
        slowness: See DeviceProfile.slowness.
        begin: The index of the first value that is taken.
    """

    def __init__(self, slowness: Sequence[float], begin: int = 0) -> None:
        super().__init__()
        self._slowness, self._begin = slowness, begin

    def advance(self, seconds: float) -> None:
        if self._slowness:
            seconds *= self._slowness[(self._begin + int(self.time / SLOWNESS_PERIOD_S)) % len(self._slowness)]
        super().advance(seconds)


class SimulatedRunner:
    """The slots of a device with the times of a profile. See runner.ModelRunner.

    Args:
        profile: the times.
        slots: how many requests run at once.
        max_seq_len: tokens of a prompt and its answer.
        buckets: the lengths that prompts are padded to; none for a device that takes every length.
        take_time: lets so many seconds pass: VirtualClock.advance, or time.sleep for a device in real time.
    """

    def __init__(
        self,
        profile: DeviceProfile,
        *,
        slots: int,
        max_seq_len: int,
        buckets: Sequence[int] = (),
        take_time: Callable[[float], None],
    ) -> None:
        self.slots = slots
        self.max_seq_len = max_seq_len
        self._profile = profile
        self._buckets = sorted(buckets)
        self._take_time = take_time
        self._pieces: dict[int, list[float]] = {}  # seconds of the pieces that are still to be read, by slot
        self._lengths: dict[int, int] = {}  # tokens of the sequences, by slot
        self._with_image: set[int] = set()

    def choose_slot(self, free: Sequence[int], request: GenerationRequest) -> int:
        return free[0]

    def begin(self, slot: int, request: GenerationRequest) -> int:
        length = len(request.prompt_ids)
        padded = next((bucket for bucket in self._buckets if bucket >= length), length)
        count = math.ceil(padded / self._profile.piece_tokens) if self._profile.piece_tokens else 1
        has_image = request.image is not None
        pieces = [self._profile.reading_s(padded, has_image) / count] * count
        if has_image and self._profile.piece_tokens:
            pieces.insert(0, self._profile.image_s)
        elif has_image:
            pieces[0] += self._profile.image_s
        if has_image:
            self._with_image.add(slot)
        self._pieces[slot] = pieces
        self._lengths[slot] = length
        return 0

    def read_piece(self, slot: int) -> Sampled | None:
        pieces = self._pieces[slot]
        self._take_time(pieces.pop(0))
        return None if pieces else Sampled(TOKEN_ID)

    def decode(self, slots: Sequence[int]) -> list[Sampled]:
        longest = max(self._lengths[slot] for slot in slots)
        self._take_time(self._profile.step_s(len(slots), longest, not self._with_image.isdisjoint(slots)))
        for slot in slots:
            self._lengths[slot] += 1
        return [Sampled(TOKEN_ID)] * len(slots)

    def release(self, slot: int) -> None:
        self._pieces.pop(slot, None)
        self._lengths.pop(slot, None)
        self._with_image.discard(slot)
