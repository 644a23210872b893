# pyright: reportArgumentType=false
"""Sampling values have bounds, draws follow their probabilities, and the record reproduces what was drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from mllama_demo.engine.token_sampler import RECORDED_CANDIDATES, Filtered, TokenSampler, TokenTrace, filter_logits, pick
from mllama_demo.errors import BadRequest
from mllama_demo.sampling import BOUNDS, MAX_STOP_LENGTH, MAX_STOP_STRINGS, PRESETS, SamplingParams
from tests.support.random_logits import random_logits, survivors, warp
from tests.support.samplers import sample


def traced(logits: np.ndarray, params: SamplingParams) -> TokenTrace:
    _, trace = sample(TokenSampler(params, trace=True), logits)
    assert trace is not None
    return trace


# --- bounds --------------------------------------------------------------------------------------------------------------


OUT_OF_BOUNDS = [
    ("temperature", -0.01),
    ("temperature", 2.01),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", True),
    ("temperature", "0.5"),
    ("temperature", None),
    ("top_p", 0.0),
    ("top_p", 0.009),
    ("top_p", 1.0001),
    ("top_p", -math.inf),
    ("top_k", -1),
    ("top_k", 201),
    ("top_k", 2.5),
    ("top_k", False),
    ("max_tokens", 0),
    ("max_tokens", 131_073),
    ("max_tokens", 1.5),
    ("max_tokens", math.nan),
    pytest.param("max_tokens", 10**400, id="max_tokens-larger than any float"),
    ("seed", -1),
    ("seed", 2**32),
    ("seed", 0.5),
    ("seed", "7"),
    pytest.param("seed", 10**400, id="seed-larger than any float"),
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_BOUNDS)
def test_a_value_out_of_bounds_is_refused_with_its_name_the_range_and_the_value(name: str, value: object) -> None:
    with pytest.raises(BadRequest) as refused:
        SamplingParams(**{name: value})
    ends = (BOUNDS[name].minimum, 131_072 if name == "max_tokens" else BOUNDS[name].maximum)  # which sliders do not reach
    for part in (name, *(str(int(end) if end == int(end) else end) for end in ends), repr(value)[:80]):
        assert part in str(refused.value)


@pytest.mark.parametrize("name", ["top_k", "max_tokens", "seed"])
def test_a_counted_value_asks_for_a_whole_number(name: str) -> None:
    with pytest.raises(BadRequest, match="whole number"):
        SamplingParams(**{name: 3.5})


@pytest.mark.parametrize(("name", "end"), product(BOUNDS, ("minimum", "maximum", "default")))
def test_both_ends_of_a_range_and_its_default_are_allowed(name: str, end: str) -> None:
    value = getattr(BOUNDS[name], end)
    assert getattr(SamplingParams(**{name: value}), name) == value


def test_the_first_value_out_of_bounds_is_named() -> None:
    with pytest.raises(BadRequest, match=r"^temperature .*got 3"):
        SamplingParams(temperature=3, top_p=7, max_tokens=0)


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "max_tokens"])
def test_without_a_value_the_default_of_its_bound_holds(name: str) -> None:
    assert getattr(SamplingParams(), name) == BOUNDS[name].default


def test_no_seed_is_a_seed_of_its_own_each_time() -> None:
    assert SamplingParams().seed is None
    logits = np.zeros(10_000)
    first, second = TokenSampler(SamplingParams()), TokenSampler(SamplingParams())
    assert [sample(first, logits)[0] for _ in range(10)] != [sample(second, logits)[0] for _ in range(10)]


@pytest.mark.parametrize(
    "stop",
    [
        "END",
        ("END", 3),
        ("",),
        ("x" * (MAX_STOP_LENGTH + 1),),
        tuple("abcdefgh"[: MAX_STOP_STRINGS + 1]),
    ],
)
def test_bad_stop_strings_are_refused(stop: object) -> None:
    with pytest.raises(BadRequest, match="stop") as refused:
        SamplingParams(stop=stop)
    assert repr(stop) in str(refused.value)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_ignore_eos_is_yes_or_no(value: object) -> None:
    with pytest.raises(BadRequest, match="ignore_eos must be true or false"):
        SamplingParams(ignore_eos=value)


def test_as_many_and_as_long_stop_strings_as_allowed_are_taken() -> None:
    stop = tuple(letter * MAX_STOP_LENGTH for letter in "abcdefgh"[:MAX_STOP_STRINGS])
    assert SamplingParams(stop=stop).stop == stop


@pytest.mark.parametrize(("name", "value"), [("top_k", 5.0), ("seed", 7.0)])
def test_a_whole_number_written_as_a_float_means_the_same_number(name: str, value: float) -> None:
    logits = random_logits(0)
    as_float, as_int = (SamplingParams(temperature=1.0, **{"seed": 1, name: v}) for v in (value, int(value)))
    assert sample(TokenSampler(as_float), logits) == sample(TokenSampler(as_int), logits)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_preset_is_within_bounds(preset) -> None:
    SamplingParams(temperature=preset.temperature, top_p=preset.top_p, top_k=preset.top_k)


# --- greedy --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [SamplingParams(temperature=0), SamplingParams(temperature=1.7, top_k=1)])
@pytest.mark.parametrize("trace", [False, True])
def test_greedy_takes_the_likeliest_token(params: SamplingParams, trace: bool) -> None:
    assert params.greedy
    for seed in range(20):
        logits = random_logits(seed).astype(np.float32)
        assert sample(TokenSampler(params, trace), logits)[0] == int(np.argmax(logits))


@pytest.mark.parametrize("trace", [False, True])
def test_greedy_takes_the_lowest_id_of_equals(trace: bool) -> None:
    assert sample(TokenSampler(SamplingParams(temperature=0), trace), np.array([1.0, 4.0, 2.0, 4.0]))[0] == 1


def test_greedy_keeps_one_candidate_and_draws_nothing() -> None:
    trace = traced(random_logits(0), SamplingParams(temperature=0))
    assert (trace.draw, trace.after_top_k, trace.after_top_p) == (None, 1, 1)


@pytest.mark.parametrize(
    ("top_k", "limit", "used"), [(0, None, 0), (50, None, 50), (0, 64, 64), (64, 64, 64), (65, 64, 64), (200, 64, 64), (1, 64, 1)]
)
def test_a_backend_with_a_limit_chooses_among_that_many_at_most(top_k: int, limit: int | None, used: int) -> None:
    assert SamplingParams(top_k=top_k).top_k_within(limit) == used


def test_a_request_made_greedy_keeps_its_other_values() -> None:
    params = SamplingParams(temperature=1.2, top_p=0.4, top_k=9, max_tokens=33, seed=5, stop=("END",))
    assert not params.greedy
    assert params.as_greedy() == replace(params, temperature=0.0)
    assert params.as_greedy().greedy


# --- drawing -------------------------------------------------------------------------------------------------------------


def draws(params: SamplingParams, count: int = 40, trace: bool = False) -> list[int]:
    sampler = TokenSampler(params, trace)
    return [sample(sampler, random_logits(step))[0] for step in range(count)]


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others() -> None:
    params = SamplingParams(temperature=1.5, top_p=1.0, seed=11)
    assert draws(params) == draws(params)
    assert draws(params) != draws(replace(params, seed=12))


def test_recording_does_not_change_what_is_drawn() -> None:
    params = SamplingParams(temperature=1.5, top_p=0.95, seed=11)
    assert draws(params, trace=True) == draws(params, trace=False)


def test_a_step_uses_one_random_number_whatever_its_logits() -> None:
    def numbers_drawn(first_logits_seed: int) -> list[float | None]:
        sampler = TokenSampler(SamplingParams(temperature=1.0, seed=3), trace=True)
        steps = [sample(sampler, random_logits(first_logits_seed + step))[1] for step in range(10)]
        return [step.draw for step in steps if step is not None]

    assert numbers_drawn(0) == numbers_drawn(100)
    assert len(set(numbers_drawn(0))) == 10


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


# 0.999 quantiles of the chi-square distribution by degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.4)
CHI_SQUARE_999 = {1: 10.828, 2: 13.816, 3: 16.266, 4: 18.467, 5: 20.515, 6: 22.458, 7: 24.322}


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0, top_p=1.0, seed=1),
        SamplingParams(temperature=0.6, top_p=1.0, seed=2),
        SamplingParams(temperature=2.0, top_k=5, top_p=1.0, seed=3),
        SamplingParams(temperature=1.0, top_p=0.8, seed=4),
        SamplingParams(temperature=1.4, top_k=6, top_p=0.9, seed=5),
    ],
    ids=lambda p: f"temperature {p.temperature}, top_k {p.top_k}, top_p {p.top_p}",
)
def test_tokens_are_drawn_as_often_as_their_probability_says(params: SamplingParams) -> None:
    logits = np.log([0.02, 0.3, 0.05, 0.2, 0.08, 0.15, 0.1, 0.1001])
    sampler = TokenSampler(params)
    counts = np.bincount([sample(sampler, logits)[0] for _ in range(5_000)], minlength=8)
    distribution = warp(logits, params).softmax(-1).numpy()
    alive = distribution > 0
    assert counts[~alive].sum() == 0
    assert chi_square(counts[alive], distribution[alive]) < CHI_SQUARE_999[int(alive.sum()) - 1]


def test_the_draw_test_would_notice_a_temperature_that_is_not_applied() -> None:
    logits = np.log([0.02, 0.3, 0.05, 0.2, 0.08, 0.15, 0.1, 0.1001])
    sampler = TokenSampler(SamplingParams(temperature=0.6, top_p=1.0, seed=2))
    counts = np.bincount([sample(sampler, logits)[0] for _ in range(5_000)], minlength=8)
    assert chi_square(counts, np.exp(logits) / np.exp(logits).sum()) > 10 * CHI_SQUARE_999[7]


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "logits",
    [[0.0, math.nan, 1.0], [math.nan] * 3, [0.0, math.inf, 1.0], [-math.inf] * 3, [math.nan, math.inf, -math.inf]],
    ids=str,
)
def test_logits_that_are_not_numbers_are_reported(logits: list[float], temperature: float, trace: bool) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        sample(TokenSampler(SamplingParams(temperature=temperature), trace), np.array(logits))


# --- the record ----------------------------------------------------------------------------------------------------------


VALUES = [
    SamplingParams(temperature=1.0, top_p=1.0, seed=1),
    SamplingParams(temperature=0.6, top_p=0.9, seed=2),
    SamplingParams(temperature=1.8, top_k=40, top_p=0.95, seed=3),
    SamplingParams(temperature=1.8, top_k=64, top_p=1.0, seed=4),
    SamplingParams(temperature=0.0, seed=5),
    SamplingParams(temperature=1.5, top_k=1, seed=6),
]
each_value = pytest.mark.parametrize(
    "params", VALUES, ids=lambda p: f"temperature {p.temperature}, top_k {p.top_k}, top_p {p.top_p}"
)


def replay(filtered: Filtered, draw: float | None) -> int:
    return int(filtered.order[0 if draw is None else pick(filtered.probabilities, draw)])


@each_value
def test_the_recorded_draw_reproduces_the_chosen_token(params: SamplingParams) -> None:
    sampler = TokenSampler(params, trace=True)
    for seed in range(30):
        logits = random_logits(seed)
        chosen, trace = sample(sampler, logits)
        assert trace is not None
        assert replay(filter_logits(logits, params), trace.draw) == trace.chosen == chosen


@each_value
def test_refiltering_a_whole_small_vocabulary_gives_the_same_filter_and_the_same_token(params: SamplingParams) -> None:
    sampler = TokenSampler(params, trace=True)
    for seed, rounded in product(range(15), (False, True)):
        logits = random_logits(seed, size=RECORDED_CANDIDATES)
        if rounded:
            logits = np.round(logits)  # with many ties
        _, trace = sample(sampler, logits)
        assert trace is not None
        filtered, again = filter_logits(logits, params), trace.refilter(params)
        assert again.order.tolist() == filtered.order.tolist()
        np.testing.assert_array_equal(again.probabilities, filtered.probabilities)
        assert again.after_top_k == filtered.after_top_k == trace.after_top_k
        assert again.kept == filtered.kept == trace.after_top_p
        assert replay(again, trace.draw) == trace.chosen


@pytest.mark.parametrize("params", [p for p in VALUES if p.greedy or 0 < p.top_k <= RECORDED_CANDIDATES])
def test_refiltering_is_exact_where_the_survivors_are_all_recorded(params: SamplingParams) -> None:
    logits = random_logits(9, size=2_000)
    filtered, again = filter_logits(logits, params), traced(logits, params).refilter(params)
    assert again.kept == filtered.kept
    assert again.order[: again.kept].tolist() == filtered.order[: filtered.kept].tolist()
    np.testing.assert_allclose(again.probabilities, filtered.probabilities, rtol=1e-12)


def test_refiltering_with_other_values_shows_what_they_would_have_kept() -> None:
    logits = random_logits(10, size=50)
    trace = traced(logits, SamplingParams(temperature=0.0))
    other = SamplingParams(temperature=1.2, top_k=12, top_p=0.7)
    assert survivors(trace.refilter(other)) == set(torch.isfinite(warp(logits, other)).nonzero().flatten().tolist())


def test_the_likeliest_candidates_are_recorded_in_order_with_their_raw_logits() -> None:
    logits = random_logits(11, size=1_000)
    trace = traced(logits, SamplingParams(temperature=0.3, top_k=3))
    top = torch.topk(torch.from_numpy(logits), RECORDED_CANDIDATES)
    assert list(trace.token_ids) == top.indices.tolist()
    assert list(trace.logits) == top.values.tolist()


@pytest.mark.parametrize("size", [1, 2, RECORDED_CANDIDATES - 1])
def test_a_smaller_vocabulary_is_recorded_whole(size: int) -> None:
    trace = traced(random_logits(12, size), SamplingParams(temperature=1.0))
    assert sorted(trace.token_ids) == list(range(size))
    assert trace.unrecorded_mass() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_the_raw_probabilities_are_those_of_the_unfiltered_model(spread: float) -> None:
    logits = random_logits(13, size=1_000, spread=spread)
    trace = traced(logits, SamplingParams(temperature=0.2, top_k=2, top_p=0.1))
    raw = torch.from_numpy(logits).softmax(-1).numpy()
    np.testing.assert_allclose(trace.raw_probabilities(), raw[list(trace.token_ids)], rtol=1e-9)
    unrecorded = np.delete(raw, list(trace.token_ids)).sum()
    assert trace.unrecorded_mass() == pytest.approx(unrecorded, rel=1e-9)
    assert trace.log_mass == pytest.approx(float(torch.from_numpy(logits).logsumexp(-1)))


def test_huge_logits_do_not_overflow_the_record() -> None:
    trace = traced(np.array([5_000.0, 4_999.0, -5_000.0]), SamplingParams(temperature=1.0))
    np.testing.assert_allclose(trace.raw_probabilities(), torch.tensor([1.0, 0.0, -1e4], dtype=torch.float64).softmax(-1).numpy())


def test_the_record_counts_what_each_filter_left_of_the_whole_vocabulary() -> None:
    logits = random_logits(14, size=5_000, spread=0.5)
    params = SamplingParams(temperature=1.5, top_k=200, top_p=0.9)
    trace = traced(logits, params)
    assert trace.after_top_k == 200
    assert trace.after_top_p == int(torch.isfinite(warp(logits, params)).sum()) > RECORDED_CANDIDATES


def test_nothing_is_recorded_unless_asked() -> None:
    assert sample(TokenSampler(SamplingParams(temperature=1.0)), random_logits(0))[1] is None
    assert sample(TokenSampler(SamplingParams(temperature=0.0)), random_logits(0))[1] is None
