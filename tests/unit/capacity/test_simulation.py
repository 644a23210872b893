"""The simulation against queueing theory, and what must hold of every simulation."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest

from mllama_demo.capacity.simulation import Instance, most_per_second, percentile, simulate
from mllama_demo.capacity.traffic import Arrival, Traffic, draw_arrivals
from mllama_demo.engine.simulated.profile import DeviceProfile
from mllama_demo.engine.simulated.runner import VirtualClock

STEP_S = 0.01


def profile(prefill_s: float = 0.0, image_s: float = 0.0, decode_s: dict[int, float] | None = None) -> DeviceProfile:
    return DeviceProfile("a device", "a test", True, {1: prefill_s}, decode_s or {1: STEP_S}, image_s=image_s)


def erlang_c(servers: int, offered: float) -> float:
    """The share of customers who wait in M/M/c with `offered` erlangs (Erlang 1917)."""
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last)


def poisson(rate: float, mean_tokens: float, seed: int) -> Iterator[Arrival]:
    """Exponential times between arrivals, and geometric lengths: the exponential distribution of whole numbers."""
    draw = random.Random(seed)
    at_s = 0.0
    while True:
        at_s += draw.expovariate(rate)
        yield Arrival(at_s, 1, 1 + int(math.log(1 - draw.random()) / math.log(1 - 1 / mean_tokens)), False, draw.randrange(10**9))


def waits_of_a_queue(arrivals: list[Arrival], servers: int) -> list[float]:
    """The waits in one line before so many servers (Kiefer and Wolfowitz 1955). An answer of n tokens takes n - 1 steps."""
    free_at = [0.0] * servers
    waits = []
    for arrival in arrivals:
        start = max(arrival.at_s, free_at[0])
        waits.append(start - arrival.at_s)
        heapq.heapreplace(free_at, start + (arrival.answer_tokens - 1) * STEP_S)
    return waits


CASES = pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (4, 0.7), (4, 0.9)])
MEAN_TOKENS = 60.0


def rate(servers: int, load: float) -> float:
    return load * servers / ((MEAN_TOKENS - 1) * STEP_S)


@pytest.mark.slow
@CASES
def test_the_queue_with_exponential_service_has_the_waits_of_its_closed_form(servers: int, load: float) -> None:
    """Of the recursion that the simulation is compared with below."""
    waits = waits_of_a_queue(list(islice(poisson(rate(servers, load), MEAN_TOKENS, 1), 400_000)), servers)
    service_s = (MEAN_TOKENS - 1) * STEP_S
    assert sum(waits) / len(waits) == pytest.approx(
        erlang_c(servers, load * servers) * service_s / (servers * (1 - load)), rel=0.06
    )
    assert sum(wait > 0 for wait in waits) / len(waits) == pytest.approx(erlang_c(servers, load * servers), rel=0.04)


@CASES
def test_every_wait_of_the_simulation_is_that_of_the_queue(servers: int, load: float) -> None:
    """But for the end of a step, which a question that comes in its middle waits for."""
    arrivals = list(islice(poisson(rate(servers, load), MEAN_TOKENS, 2), 600))
    simulated = simulate(arrivals, Instance(profile(), servers, 10_000, max_waiting=10**6)).questions
    for question, expected in zip(simulated, waits_of_a_queue(arrivals, servers), strict=True):
        assert expected - 1e-9 <= question.waited_s <= expected + 8 * STEP_S


@pytest.mark.slow
def test_an_instance_that_is_always_busy_answers_what_its_times_allow() -> None:
    """Fixed lengths, all asked at once: reading one after the other, decoding together."""
    tokens, slots = 50, 4
    device = profile(prefill_s=0.2, image_s=0.3, decode_s={slots: 0.02})
    arrivals = [Arrival(0.0, 1, tokens, True, person) for person in range(400)]
    outcome = simulate(arrivals, Instance(device, slots, 1000, max_waiting=1000))
    each = 0.2 + 0.3 + (tokens - 1) * 0.02 / slots
    assert outcome.lasted_s == pytest.approx(len(arrivals) * each, rel=0.03)


def test_a_step_takes_longer_while_an_answer_in_it_is_about_an_image() -> None:
    device = DeviceProfile("a device", "a test", True, {1: 0.0}, {1: 0.01}, image_step_s={1: 0.002, 2: 0.005})
    arrivals = [Arrival(0.0, 1, 11, True, 1), Arrival(0.0, 1, 31, False, 2)]
    outcome = simulate(arrivals, Instance(device, 2, 1000))
    # The first answer has 10 steps, which the second one shares but for one: the prompts are read one after the other.
    assert outcome.lasted_s == pytest.approx(0.012 + 9 * 0.015 + 21 * 0.01)


def test_a_step_takes_longer_for_each_token_of_its_longest_sequence_and_each_slot() -> None:
    device = DeviceProfile("a device", "a test", True, {1: 0.0}, {1: 0.01}, context_step_s=0.001)
    (alone,) = simulate([Arrival(0.0, 10, 4, False, 1)], Instance(device, 2, 1000)).questions
    assert alone.end_s == pytest.approx(3 * 0.01 + (10 + 11 + 12) * 0.001)
    beside = simulate([Arrival(0.0, 10, 4, False, 1), Arrival(0.0, 50, 3, False, 2)], Instance(device, 2, 1000))
    # The prompt of the second one is read after the first step of the first one.
    assert beside.lasted_s == pytest.approx(3 * 0.01 + (10 + 2 * 50 + 2 * 51) * 0.001)


def test_an_image_is_read_in_a_piece_of_its_own_and_makes_every_token_of_its_prompt_take_longer() -> None:
    device = DeviceProfile("a device", "a test", True, {100: 1.0}, {1: STEP_S}, image_s=0.5, image_token_s=0.01, piece_tokens=50)
    arrivals = [Arrival(0.0, 100, 100, False, 0), Arrival(1.005, 100, 1, True, 1)]
    _, second = simulate(arrivals, Instance(device, 2, 1000)).questions
    assert second.first_token_s == pytest.approx(1.01 + 0.5 + STEP_S + 1.0 + STEP_S + 100 * 0.01, abs=1e-6)


@pytest.mark.slow
def test_what_one_instance_answers_in_a_second_is_what_all_questions_at_once_take() -> None:
    traffic = Traffic(people=300, images=0.5)
    arrivals = list(islice(draw_arrivals(traffic, max_prompt=500, max_answer=300, seed=4), 300))
    device = replace(profile(0.05, 0.02), context_step_s=0.0001)
    at_once = [replace(arrival, at_s=0.0) for arrival in arrivals]
    lasted_s = simulate(at_once, Instance(device, 4, 1000, max_waiting=1000)).lasted_s
    assert most_per_second(arrivals, Instance(device, 4, 1000, max_waiting=1)) == pytest.approx(300 / lasted_s, rel=0.02)


def test_a_clock_may_be_slower_than_that_of_the_profile() -> None:
    class HalfAsFast(VirtualClock):
        def advance(self, seconds: float) -> None:
            super().advance(2 * seconds)

    (question,) = simulate([Arrival(0.0, 1, 11, False, 0)], Instance(profile(0.1), 1, 100), new_clock=HalfAsFast).questions
    assert question.end_s == pytest.approx(2 * (0.1 + 10 * STEP_S))


def test_the_steps_of_a_device_are_as_slow_in_each_half_second_as_its_profile_says() -> None:
    device = replace(profile(), slowness=[1.0, 2.0])
    (question,) = simulate([Arrival(0.0, 1, 101, False, 0)], Instance(device, 1, 1000), seed=1).questions
    # 100 steps: 75 in the first second, 50 in its fast half and 25 in its slow half. The other 25 are fast or slow, as drawn.
    assert question.end_s in (pytest.approx(1.25, abs=0.03), pytest.approx(1.5, abs=0.03))
    twice = Instance(replace(device, slowness=[2.0]), 1, 1000)
    arrivals = [Arrival(0.0, 1, 101, False, 0)] * 10
    assert simulate(arrivals, twice).lasted_s == pytest.approx(2 * simulate(arrivals, Instance(profile(), 1, 1000)).lasted_s)
    assert most_per_second(arrivals, twice) == pytest.approx(most_per_second(arrivals, Instance(profile(), 1, 1000)) / 2)


def test_instances_begin_in_drawn_moments_of_the_slowness_and_the_same_seed_draws_the_same_ones() -> None:
    instance = Instance(replace(profile(), slowness=[1.0, 1.5, 2.0, 2.5, 3.0]), 1, 1000)

    def ends(seed: int) -> list[float | None]:
        arrivals = [Arrival(0.0, 1, 21, False, person) for person in range(8)]
        return [question.end_s for question in simulate(arrivals, instance, instances=8, seed=seed).questions]

    assert ends(1) == ends(1) != ends(2)
    assert len(set(ends(1))) > 2


def test_every_question_ends_once_with_its_tokens() -> None:
    traffic = Traffic(people=300, questions_per_minute=2)
    arrivals = list(islice(draw_arrivals(traffic, max_prompt=500, max_answer=300, seed=3), 500))
    outcome = simulate(arrivals, Instance(profile(0.05), 4, 1000, max_waiting=10**6), instances=2)
    assert [question.arrival for question in outcome.questions] == arrivals
    assert [question.tokens for question in outcome.questions] == [arrival.answer_tokens for arrival in arrivals]
    for question in outcome.questions:
        assert question.admitted_s is not None
        assert question.first_token_s is not None
        assert question.end_s is not None
        assert question.arrival.at_s <= question.admitted_s < question.first_token_s <= question.end_s


def test_a_full_queue_refuses() -> None:
    arrivals = [Arrival(0.0, 1, 10, False, person) for person in range(20)]
    outcome = simulate(arrivals, Instance(profile(0.1), 2, 100, max_waiting=3))
    assert len(outcome.answered) == 5
    assert outcome.refused == 15 / 20


def test_a_prompt_takes_the_time_of_its_bucket() -> None:
    device = DeviceProfile("a device", "a test", True, {100: 1.0, 200: 2.0}, {1: STEP_S})
    instance = Instance(device, 1, 1000, buckets=(100, 200))
    (question,) = simulate([Arrival(0.0, 101, 1, False, 0)], instance).questions
    assert question.first_token_s == pytest.approx(2.0)
    (question,) = simulate([Arrival(0.0, 150, 1, False, 0)], Instance(device, 1, 1000)).questions
    assert question.first_token_s == pytest.approx(1.5), "without buckets a prompt has its own length"


def test_a_long_prompt_is_read_in_pieces_between_the_steps_of_others() -> None:
    device = DeviceProfile("a device", "a test", True, {100: 1.0}, {1: STEP_S}, piece_tokens=10)
    arrivals = [Arrival(0.0, 100, 100, False, 0), Arrival(1.005, 100, 1, False, 1)]
    first, second = simulate(arrivals, Instance(device, 2, 1000)).questions
    assert second.first_token_s == pytest.approx(1.01 + 1.0 + 9 * STEP_S, abs=1e-6)
    assert first.end_s == pytest.approx(1.0 + 99 * STEP_S + 1.0, abs=1e-6)


def test_questions_go_to_the_instance_that_has_the_fewest() -> None:
    arrivals = [Arrival(index * 0.001, 1, 50, False, index) for index in range(8)]
    outcome = simulate(arrivals, Instance(profile(), 1, 100), instances=8)
    assert max(question.waited_s for question in outcome.questions) < STEP_S


def test_the_first_visitor_after_a_burst_of_another_waits_for_one_turn() -> None:
    """The program's own fair queue: a burst of one person does not go before the question of another."""
    burst = [Arrival(0.0, 1, 100, False, 1) for _ in range(20)]
    outcome = simulate([*burst, Arrival(0.5, 1, 100, False, 2)], Instance(profile(), 1, 1000))
    assert outcome.questions[-1].waited_s < 100 * STEP_S


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 6), (0.95, 10), (1.0, 10)])
def test_percentile(share: float, value: int) -> None:
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], share) == value
