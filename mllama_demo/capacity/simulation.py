"""Runs the program's own scheduler over simulated devices, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import BytesIO

from PIL import Image

from mllama_demo.capacity.traffic import Arrival
from mllama_demo.engine.base import Client, Event, FinishEvent, GenerationRequest, PrefillEvent, TokenEvent
from mllama_demo.engine.scheduler import Scheduler
from mllama_demo.engine.simulated.profile import DeviceProfile
from mllama_demo.engine.simulated.runner import SimulatedRunner, UnsteadyClock, VirtualClock
from mllama_demo.errors import BackendBusy
from mllama_demo.images.loading import LoadedImage
from mllama_demo.sampling import SamplingParams


@dataclass(frozen=True)
class Instance:
    """What every instance has: the device's times, its slots, its context length, its buckets, and places to wait in."""

    profile: DeviceProfile
    slots: int
    max_seq_len: int
    buckets: tuple[int, ...] = ()
    max_waiting: int = 64

    def new_clock(self, draw: random.Random) -> VirtualClock:
        """A clock at 0 that is as unsteady as the profile says, from a drawn moment on."""
        slowness = self.profile.slowness
        return UnsteadyClock(slowness, draw.randrange(len(slowness)) if slowness else 0)


@dataclass
class Question:
    """What became of an arrival. Times are seconds since the start; None where it did not come to that."""

    arrival: Arrival
    admitted_s: float | None = None
    first_token_s: float | None = None
    end_s: float | None = None
    tokens: int = 0
    refused: bool = False

    @property
    def waited_s(self) -> float:
        assert self.admitted_s is not None
        return self.admitted_s - self.arrival.at_s

    @property
    def to_first_token_s(self) -> float:
        assert self.first_token_s is not None
        return self.first_token_s - self.arrival.at_s


class NoText:
    """The text stream of an answer whose words nobody reads."""

    stopped: str | None = None

    def push(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


@dataclass
class _Replica:
    """One instance: a scheduler over a simulated device with a clock of its own."""

    clock: VirtualClock
    scheduler: Scheduler
    asked: dict[str, Question] = field(default_factory=dict)
    unfinished: int = 0

    @classmethod
    def of(cls, instance: Instance, clock: VirtualClock) -> _Replica:
        runner = SimulatedRunner(
            instance.profile,
            slots=instance.slots,
            max_seq_len=instance.max_seq_len,
            buckets=instance.buckets,
            take_time=clock.advance,
        )
        scheduler = Scheduler(
            runner,
            new_text_stream=lambda sampling: NoText(),
            end_of_turn_ids=frozenset(),
            max_waiting=instance.max_waiting,
            clock=clock.now,
        )
        return cls(clock, scheduler)

    def run_until(self, time: float) -> None:
        """Steps until the clock has reached the time, or longer: a step is not interrupted."""
        while self.unfinished and self.clock.time < time:
            self.step()
        if not self.unfinished:
            self.clock.advance_to(time)

    def step(self) -> None:
        self._take(self.scheduler.step(self._take))

    def ask(self, question: Question) -> None:
        request = _request(question.arrival)
        try:
            self.scheduler.submit(request)
        except BackendBusy:
            question.refused = True
            return
        self.asked[request.id] = question
        self.unfinished += 1

    def _take(self, events: Sequence[tuple[str, Event]]) -> None:
        now = self.clock.time
        for request_id, event in events:
            question = self.asked[request_id]
            if isinstance(event, PrefillEvent):
                question.admitted_s = max(now, question.arrival.at_s)
            elif isinstance(event, TokenEvent):
                if question.first_token_s is None:
                    question.first_token_s = now
            elif isinstance(event, FinishEvent):
                question.end_s, question.tokens = now, event.completion_tokens
                del self.asked[request_id]
                self.unfinished -= 1


@dataclass(frozen=True)
class Outcome:
    """What a simulation showed.

    Attributes:
        questions: In the order of their arrival.
        lasted_s: Seconds from the first arrival to the last token.
    """

    questions: list[Question]
    lasted_s: float

    @property
    def answered(self) -> list[Question]:
        return [question for question in self.questions if question.end_s is not None]

    @property
    def refused(self) -> float:
        """The share of the questions that a full queue refused."""
        return sum(question.refused for question in self.questions) / len(self.questions)

    def settled(self, share: float = 0.1) -> Outcome:
        """Without the first questions, which met empty slots."""
        return Outcome(self.questions[round(len(self.questions) * share) :], self.lasted_s)


def simulate(
    arrivals: Iterable[Arrival],
    instance: Instance,
    instances: int = 1,
    *,
    seed: int = 0,
    new_clock: Callable[[], VirtualClock] | None = None,
) -> Outcome:
    """Serves every arrival with so many instances. A question goes to the instance that has the fewest.

    Args:
        arrivals: in the order of their times; the simulation ends when all of them are answered.
        seed: draws when in the profile's slowness each instance begins.
        new_clock: makes the clock of an instance, which stands at 0; None takes the one of the profile.
    """
    draw = random.Random(seed)
    replicas = [_Replica.of(instance, new_clock() if new_clock else instance.new_clock(draw)) for _ in range(instances)]
    questions: list[Question] = []
    for arrival in arrivals:
        for replica in replicas:
            replica.run_until(arrival.at_s)
        question = Question(arrival)
        questions.append(question)
        min(replicas, key=lambda replica: replica.unfinished).ask(question)
    if not questions:
        raise ValueError("a simulation needs arrivals")
    begin = questions[0].arrival.at_s
    for replica in replicas:
        replica.run_until(float("inf"))
    end = max((question.end_s for question in questions if question.end_s is not None), default=begin)
    return Outcome(questions, end - begin)


def most_per_second(arrivals: Sequence[Arrival], instance: Instance) -> float:
    """How many of the questions one instance answers in a second when there is always a next one. Their times do not count."""
    replica = _Replica.of(instance, instance.new_clock(random.Random(0)))
    for arrival in arrivals:
        while replica.unfinished > instance.slots:  # one waits; a long queue would take the simulation longer
            replica.step()
        replica.ask(Question(replace(arrival, at_s=0.0)))
    while replica.unfinished:
        replica.step()
    return len(arrivals) / max(replica.clock.time, 1e-9)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _request(arrival: Arrival) -> GenerationRequest:
    return GenerationRequest(
        _prompt(arrival.prompt_tokens),
        SamplingParams(max_tokens=min(arrival.answer_tokens, 4096), ignore_eos=True),
        _image() if arrival.has_image else None,
        client=Client(visitor=str(arrival.person)),
    )


@lru_cache
def _prompt(length: int) -> tuple[int, ...]:
    return (1,) * length


@lru_cache
def _image() -> LoadedImage:
    data = BytesIO()
    pixels = Image.new("RGB", (1, 1))
    pixels.save(data, "PNG")
    return LoadedImage(pixels, data.getvalue(), "PNG", "", "simulated")
