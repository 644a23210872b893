"""The fewest instances that keep the promise about the first token."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest

from mllama_demo.capacity.simulation import Instance
from mllama_demo.capacity.sizing import MOST_LOAD, Sizing, most_questions_per_second, size, with_waiting_places
from mllama_demo.capacity.traffic import Traffic
from mllama_demo.engine.simulated.profile import DeviceProfile

DEVICE = DeviceProfile("a device", "a test", True, {1024: 0.25, 2048: 0.5}, {4: 0.04}, dollars_per_hour=20.0)
TRAFFIC = Traffic(people=200, questions_per_minute=1.5)


INSTANCE = Instance(DEVICE, 4, 2048, (1024, 2048))


@cache
def sized(traffic: Traffic, max_answer: int = 512) -> Sizing:
    most = most_questions_per_second(traffic, INSTANCE, max_answer)
    return size(traffic, with_waiting_places(INSTANCE, traffic, most), max_answer, most)


@pytest.mark.slow
def test_the_most_that_an_instance_answers() -> None:
    """Almost every prompt fits the smaller bucket. An answer of n tokens takes n - 1 steps, of which four answers share each."""
    traffic = replace(TRAFFIC, images=0.0)
    found = most_questions_per_second(traffic, INSTANCE, 512)
    assert found == pytest.approx(1 / (0.25 + 119 * 0.04 / 4), rel=0.03)


@pytest.mark.slow
def test_the_most_that_an_instance_answers_when_steps_with_an_image_are_longer() -> None:
    """One slot: every step of the half of the questions that have an image takes twice as long."""
    traffic, device = replace(TRAFFIC, images=0.5), replace(DEVICE, decode_s={1: 0.04}, image_step_s={1: 0.04})
    found = most_questions_per_second(traffic, Instance(device, 1, 2048, (1024, 2048)), 512)
    assert found == pytest.approx(1 / (0.25 + 119 * 0.06), rel=0.03)


@pytest.mark.slow
def test_the_most_that_an_instance_answers_when_steps_grow_with_their_sequences() -> None:
    """One slot: the sequence of a step has the 200 tokens of its prompt, and the tokens of its answer until then.

    Answers have log-normal lengths with sigma 0.6. Until a step there are 60 * exp(0.6 ** 2) tokens in the mean of all steps.
    """
    traffic, device = replace(TRAFFIC, images=0.0), replace(DEVICE, decode_s={1: 0.04}, context_step_s=0.0001)
    found = most_questions_per_second(traffic, Instance(device, 1, 2048, (1024, 2048)), 512)
    assert found == pytest.approx(1 / (0.25 + 119 * (0.04 + 0.0001 * (200 + 60 * math.exp(0.36)))), rel=0.03)


def test_so_many_may_wait_as_get_a_place_within_the_patience_of_visitors() -> None:
    assert with_waiting_places(INSTANCE, replace(TRAFFIC, patience_s=20), 0.7).max_waiting == 14
    assert with_waiting_places(INSTANCE, replace(TRAFFIC, patience_s=1), 0.01).max_waiting == 1


def test_answers_are_no_longer_than_max_tokens_allows() -> None:
    traffic = replace(TRAFFIC, images=0.0, answer_tokens=1000)
    found = most_questions_per_second(traffic, INSTANCE, 1)
    assert found == pytest.approx(4.0, rel=0.01), "one token each, which reading the prompt brings"
    assert sized(traffic, 1).tokens_s is None


@pytest.mark.slow
@pytest.mark.usefixtures("few_questions")
def test_more_instances_than_people_share_the_load_of_all() -> None:
    """Ten people who ask without a pause for long answers need more instances than there are people."""
    traffic = Traffic(people=10, questions_per_minute=60, answer_tokens=250)
    found = sized(traffic, 256)
    assert found.instances > 2 * traffic.people
    assert found.first_token_s[1] <= traffic.first_token_s


@pytest.mark.slow
@pytest.mark.usefixtures("few_questions")
def test_the_promise_is_kept_with_as_few_instances_as_possible() -> None:
    found = sized(TRAFFIC)
    assert found.first_token_s[1] <= TRAFFIC.first_token_s
    assert found.load <= MOST_LOAD
    fewer = found.load * found.instances / (found.instances - 1)
    assert fewer > MOST_LOAD, "one instance fewer would be loaded too much"
    assert found.per_hour == 20.0 * found.instances
    assert found.per_thousand == pytest.approx(20.0 * found.instances / (5.0 * 3600) * 1000)
    hurried = sized(replace(TRAFFIC, first_token_s=0.45))
    assert hurried.instances > found.instances
    assert hurried.first_token_s[1] <= 0.45


@pytest.mark.slow
@pytest.mark.usefixtures("few_questions")
def test_a_hundred_times_the_people_need_about_a_hundred_times_the_instances() -> None:
    few, many = sized(TRAFFIC), sized(TRAFFIC.of(20_000))
    assert 85 * few.instances <= many.instances <= 105 * few.instances


@pytest.mark.slow
@pytest.mark.usefixtures("few_questions")
def test_a_promise_that_no_number_of_instances_keeps_ends_the_search() -> None:
    found = sized(replace(TRAFFIC, people=4, first_token_s=0.1))
    assert found.first_token_s[1] > 0.1
    assert found.instances < 10
