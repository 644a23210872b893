"""How many instances a number of visitors needs: the fewest whose simulation keeps the promise about the first token."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from mllama_demo.capacity.simulation import Instance, Question, most_per_second, percentile, simulate
from mllama_demo.capacity.traffic import Arrival, Traffic, draw_arrivals

QUESTIONS = 2000  # of one simulation
MOST_LOAD = 0.9  # of what the instances can answer: above it a queue grows for long before it shows in so few questions
_GROUP = 8  # More instances are simulated as groups of so many, each with its share of the visitors.
_SEED = 20240925
_MOST_TRIED = 4  # times as many instances as the load needs
_MOST_REFUSED = 0.001


@dataclass(frozen=True)
class Sizing:
    """What so many visitors need, and what they then get. Times are in seconds.

    Attributes:
        load: The questions asked, as a share of the most that the instances can answer.
        wait_s, first_token_s: Of half of the questions, and of nineteen of twenty, at most.
        tokens_s: Tokens a second for one answer, in the middle; None where answers have one token.
        per_hour, per_thousand: Dollars for an hour, and for a thousand answers; None without a price.
    """

    traffic: Traffic
    instances: int
    load: float
    wait_s: tuple[float, float]
    first_token_s: tuple[float, float]
    tokens_s: float | None
    per_hour: float | None
    per_thousand: float | None


def size(traffic: Traffic, instance: Instance, max_answer: int, most: float) -> Sizing:
    """The fewest instances with which nineteen of twenty first tokens come in time and no question is refused.

    Args:
        max_answer: max_tokens of a request.
        most: most_questions_per_second().

    Returns:
        The sizing. Its first tokens are late if an instance is too slow for the promise, however many there are.
    """
    fewest = instances = max(1, math.ceil(traffic.questions_per_second / most / MOST_LOAD))
    while True:
        sizing, refused = _simulated(traffic, instance, instances, max_answer, most)
        in_time = sizing.first_token_s[1] <= traffic.first_token_s and refused <= _MOST_REFUSED
        nobody_waits = sizing.wait_s[1] < 0.1 * sizing.first_token_s[1]  # so that more instances would not help
        if in_time or nobody_waits or instances > _MOST_TRIED * fewest:
            return sizing
        instances += max(1, instances // 20)


def most_questions_per_second(traffic: Traffic, instance: Instance, max_answer: int) -> float:
    """What one instance can answer when a question always waits. The number of visitors does not count."""
    return most_per_second([*drawn(traffic, instance, max_answer)], instance)


def drawn(traffic: Traffic, instance: Instance, max_answer: int) -> Iterator[Arrival]:
    """The questions of a simulation, always the same ones."""
    longest_answer = min(max_answer, instance.max_seq_len // 2)
    arrivals = draw_arrivals(traffic, max_prompt=instance.max_seq_len - longest_answer, max_answer=longest_answer, seed=_SEED)
    return islice(arrivals, QUESTIONS)


def _simulated(traffic: Traffic, instance: Instance, instances: int, max_answer: int, most: float) -> tuple[Sizing, float]:
    """The sizing with so many instances, and the share of the questions that a full queue refused."""
    simulated = min(instances, _GROUP)
    share = replace(traffic, questions_per_minute=traffic.questions_per_minute * simulated / instances)
    outcome = simulate(drawn(share, instance, max_answer), instance, simulated).settled()
    answered = outcome.answered
    price = instance.profile.dollars_per_hour
    per_hour = None if price is None else price * instances
    speeds = [_speed(question) for question in answered if question.tokens > 1]
    sizing = Sizing(
        traffic,
        instances,
        traffic.questions_per_second / most / instances,
        _middle_and_most([question.waited_s for question in answered]),
        _middle_and_most([question.to_first_token_s for question in answered]),
        percentile(speeds, 0.5) if speeds else None,
        per_hour,
        None if per_hour is None else per_hour / (traffic.questions_per_second * 3.6),
    )
    return sizing, outcome.refused


def _middle_and_most(values: list[float]) -> tuple[float, float]:
    return percentile(values, 0.5), percentile(values, 0.95)


def _speed(question: Question) -> float:
    assert question.end_s is not None
    assert question.first_token_s is not None
    return (question.tokens - 1) / max(1e-9, question.end_s - question.first_token_s)


def with_waiting_places(instance: Instance, traffic: Traffic, most: float) -> Instance:
    """The instance with so long a queue that the last question in it gets its place within the visitors' patience.

    Args:
        most: most_questions_per_second().
    """
    return replace(instance, max_waiting=max(1, round(most * traffic.patience_s)))
