"""The requests of a verification, and what counts as a difference."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.engine.base import BackendInfo
from mllama_demo.engine.runner import Sampled
from mllama_demo.engine.token_sampler import TokenTrace
from mllama_demo.sampling import SamplingParams
from mllama_demo.verify.cases import STEPS, layouts, make_cases, passage, prompt_lengths
from mllama_demo.verify.comparison import difference
from mllama_demo.verify.reference import Step
from mllama_demo.verify.sampling import _beyond

INFO = BackendInfo("neuron", "model", "device", 4, 192, 32, 4, full_canvas=True)
STEP = Step(tuple(range(64)), tuple(-float(i) for i in range(64)), 0.4587)  # token i has the logit -i


@pytest.fixture(scope="module")
def tokenizer(embedded: Path) -> Tokenizer:
    return Tokenizer(embedded)


def test_every_machine_makes_the_same_cases_and_no_two_are_alike(tokenizer):
    first, second = (make_cases(tokenizer, INFO, (64, 128), (96, 192)) for _ in range(2))
    assert [case.key for case in first] == [case.key for case in second]
    assert len({case.key for case in first}) == len(first)
    pictures = [case.request.image.pixels.tobytes() for case in first if case.request.image]
    assert len(set(pictures)) == len(pictures) == 9


def test_images_lie_on_the_canvas_of_the_engine_and_one_leaves_tiles_empty(tokenizer):
    cases = make_cases(tokenizer, INFO, (64, 128), (96, 192))
    sizes = {case.group: set() for case in cases}
    for case in cases:
        if case.request.image:
            sizes[case.group].add((case.request.image.width, case.request.image.height))
    assert sizes["aspect ratio"] == {(64, 64), (128, 32), (32, 128)}
    assert sizes["empty tiles"] == {(32, 32)}
    plain = make_cases(tokenizer, replace(INFO, full_canvas=False), (64, 128), (96, 192))
    assert [case for case in plain if case.group == "empty tiles"] == []
    assert len({case.request.image.pixels.size for case in plain if case.request.image}) == 8


def test_a_model_without_images_has_cases_of_text_only(tokenizer):
    cases = make_cases(tokenizer, replace(INFO, capabilities=frozenset()), (64,), (192,))
    assert {case.group for case in cases} == {"text", "bucket"}


def test_all_arrangements_of_four_tiles():
    assert layouts(4) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]


@pytest.mark.parametrize(
    ("context", "token", "length", "lengths"),
    [
        ((64, 128), (96, 192), 192, [62, 94, 126, 128]),
        ((256, 512, 1024, 2048), (512, 1024, 2048), 2048, [254, 510, 1022, 2044]),
        ((2,), (8,), 8, []),
    ],
)
def test_prompts_end_just_below_every_bucket_and_leave_room_for_the_steps(context, token, length, lengths):
    assert prompt_lengths(context, token, length) == lengths
    assert all(prompt + STEPS <= length for prompt in lengths)


@pytest.mark.parametrize("length", [3, 40, 200])
def test_a_passage_has_the_length_and_begins_elsewhere_each_time(tokenizer, length):
    made = [passage(tokenizer, length, start).prompt_ids for start in range(6)]
    assert {len(ids) for ids in made} == {length}
    assert len(set(made)) == 6


# --- differences ---------------------------------------------------------------------------------------------------------


def with_logits(logits: dict[int, float], log_mass: float = STEP.log_mass) -> Sampled:
    order = sorted(logits, key=lambda token: -logits[token])
    return Sampled(order[0], TokenTrace(tuple(order), tuple(logits[t] for t in order), log_mass, order[0], 0.0, None, 1, 1))


def test_the_difference_is_the_largest_of_any_candidate_or_of_the_mass():
    same = dict(zip(STEP.token_ids, STEP.logits, strict=True))
    assert difference(with_logits(same), STEP) == 0
    assert difference(with_logits({**same, 40: -40.25}), STEP) == 0.25
    assert difference(with_logits(same, STEP.log_mass + 0.5), STEP) == pytest.approx(0.5)
    assert difference(with_logits({token: logit for token, logit in same.items() if token != 3}), STEP) == math.inf
    assert difference(with_logits({**same, 1: math.nan}), STEP) == math.inf


def test_a_token_without_logits_differs_by_how_much_less_likely_it_is():
    assert [difference(Sampled(token), STEP) for token in (0, 2, 999)] == [0, 2, math.inf]


@pytest.mark.parametrize(
    ("values", "token", "beyond"),
    [
        ({"temperature": 0.0}, 0, 0),
        ({"temperature": 0.0}, 1, 1),
        ({"temperature": 2.0, "top_k": 3, "top_p": 1.0}, 2, 0),
        ({"temperature": 2.0, "top_k": 3, "top_p": 1.0}, 5, 3),
        ({"temperature": 1.0, "top_k": 0, "top_p": 0.5}, 0, 0),  # token 0 has a probability of 0.63
        ({"temperature": 1.0, "top_k": 0, "top_p": 0.5}, 1, 1),
        ({"temperature": 2.0, "top_k": 0, "top_p": 1.0}, 999, 0),
    ],
)
def test_a_drawn_token_must_be_among_those_that_the_values_leave(values, token, beyond):
    assert _beyond(token, STEP, SamplingParams(**values), tolerance=0.0) == beyond


def test_a_nucleus_may_have_more_tokens_where_logits_may_differ():
    """Odds of 0.63 to 0.37 are 0.5 to 0.5 where logits may differ by 0.27."""
    nucleus = SamplingParams(temperature=1.0, top_k=0, top_p=0.5)
    assert _beyond(1, STEP, nucleus, tolerance=0.2) == 1
    assert _beyond(1, STEP, nucleus, tolerance=0.3) == 0
