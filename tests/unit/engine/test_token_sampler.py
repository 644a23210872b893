"""The filters keep what transformers keeps, and what they say of themselves is so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mllama_demo.engine.token_sampler import Filtered, apply_temperature, descending, filter_logits, keep_top_k, keep_top_p, pick
from mllama_demo.sampling import SamplingParams
from tests.support.random_logits import random_logits, survivors, warp


def spread_out(filtered: Filtered) -> np.ndarray:
    """The distribution over the whole vocabulary, by token id."""
    distribution = np.zeros(len(filtered.order))
    distribution[filtered.order[: filtered.kept]] = filtered.probabilities
    return distribution


# --- filters against transformers ----------------------------------------------------------------------------------------


def assert_same_as_transformers(logits: np.ndarray, params: SamplingParams) -> None:
    filtered, warped = filter_logits(logits, params), warp(logits, params)
    assert survivors(filtered) == set(torch.isfinite(warped).nonzero().flatten().tolist())
    np.testing.assert_allclose(spread_out(filtered), warped.softmax(-1).numpy(), rtol=0, atol=1e-6)
    assert filtered.after_top_k == int(torch.isfinite(warp(logits, replace(params, top_p=1.0))).sum())


@pytest.mark.parametrize("temperature", [0.05, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 2, 10, 200])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_the_filters_keep_what_transformers_keeps(temperature: float, top_k: int, top_p: float) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    for seed in range(5):
        assert_same_as_transformers(random_logits(seed), params)


@given(
    logits=st.lists(st.floats(-30, 30), min_size=1, max_size=40, unique=True),
    temperature=st.floats(0.05, 2.0),
    top_k=st.integers(2, 60),
)
def test_temperature_and_top_k_agree_with_transformers_on_any_logits(logits: list[float], temperature: float, top_k: int) -> None:
    assert_same_as_transformers(np.array(logits), SamplingParams(temperature=temperature, top_k=top_k, top_p=1.0))


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 300), top_p=st.floats(0.01, 1.0), spread=st.floats(0.01, 10))
def test_the_nucleus_agrees_with_transformers_on_random_logits(seed: int, size: int, top_p: float, spread: float) -> None:
    logits = random_logits(seed, size, spread)
    mass = torch.from_numpy(np.sort(logits)[::-1].copy()).softmax(-1).cumsum(-1).numpy()
    assume(np.abs(mass - top_p).min() > 1e-12)  # transformers sums from the other end: on the edge itself rounding decides
    assert_same_as_transformers(logits, SamplingParams(temperature=1.0, top_p=top_p))


@pytest.mark.parametrize("top_k", [2, 3, 7, 40, 150])
@pytest.mark.parametrize("seed", range(4))
def test_ties_with_the_kth_survive_as_in_transformers(top_k: int, seed: int) -> None:
    logits = np.round(random_logits(seed))
    params = SamplingParams(temperature=1.0, top_k=top_k, top_p=1.0)
    assert_same_as_transformers(logits, params)
    assert filter_logits(logits, params).after_top_k >= top_k


def test_a_whole_llama_vocabulary_agrees_with_transformers() -> None:
    assert_same_as_transformers(random_logits(7, 128_256), SamplingParams(temperature=0.9, top_k=100, top_p=0.95))
    assert_same_as_transformers(random_logits(8, 128_256), SamplingParams(temperature=0.6, top_p=0.9))


def test_a_token_masked_with_minus_infinity_gets_no_probability() -> None:
    logits = random_logits(3, 20)
    logits[[0, 5, 19]] = -np.inf
    params = SamplingParams(temperature=1.0, top_p=1.0)
    distribution = spread_out(filter_logits(logits, params))
    np.testing.assert_allclose(distribution, warp(logits, params).softmax(-1).numpy(), rtol=0, atol=1e-6)
    assert (distribution[[0, 5, 19]] == 0).all()


# --- filters on their own ------------------------------------------------------------------------------------------------


def test_the_order_is_descending_by_logit_with_ties_by_token_id() -> None:
    logits = np.round(random_logits(1, 80))  # with -0.0
    logits[5] = -np.inf
    expected = sorted(range(80), key=lambda token: (-logits[token], token))
    assert descending(logits.astype(np.float32)).tolist() == expected
    assert filter_logits(logits, SamplingParams(temperature=0.7)).order.tolist() == expected
    assert filter_logits(logits, SamplingParams(temperature=0)).order.tolist() == expected


@pytest.mark.parametrize(("top_k", "kept"), [(0, 5), (1, 1), (2, 4), (3, 4), (4, 4), (5, 5), (9, 5)])
def test_top_k_counts_with_ties(top_k: int, kept: int) -> None:
    assert keep_top_k(np.array([3.0, 2.0, 2.0, 2.0, 1.0]), top_k) == kept


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.99, 4), (1.0, 4)])
def test_the_nucleus_is_the_fewest_that_reach_top_p(top_p: float, kept: int) -> None:
    assert keep_top_p(np.array([0.5, 0.25, 0.125, 0.125]), top_p) == kept


def test_top_p_is_measured_on_what_top_k_left() -> None:
    """0.4 of 0.4 + 0.3 is 0.57 of the mass: enough for top_p 0.5 after top_k 2, not before it."""
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    assert filter_logits(logits, SamplingParams(temperature=1.0, top_k=2, top_p=0.5)).kept == 1
    assert filter_logits(logits, SamplingParams(temperature=1.0, top_p=0.5)).kept == 2


def test_what_is_left_sums_to_one_and_descends() -> None:
    filtered = filter_logits(random_logits(2), SamplingParams(temperature=1.3, top_k=50, top_p=0.8))
    assert filtered.probabilities.sum() == pytest.approx(1.0)
    assert (np.diff(filtered.probabilities) <= 0).all()
    assert 1 <= filtered.kept <= filtered.after_top_k == 50


def test_temperature_zero_is_not_a_divisor() -> None:
    with pytest.raises(ValueError, match="greedy"):
        apply_temperature(np.zeros(3), 0.0)


@pytest.mark.parametrize("temperature", [1e-3, 1e-12, 1e-310])
def test_a_tiny_temperature_is_as_good_as_greedy(temperature: float) -> None:
    logits = random_logits(4)
    filtered = filter_logits(logits, SamplingParams(temperature=temperature, top_p=1.0))
    assert spread_out(filtered)[np.argmax(logits)] == pytest.approx(1.0)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=30), st.floats(0, 1, exclude_max=True))
def test_a_draw_falls_on_the_candidate_whose_share_of_the_line_holds_it(weights: list[float], draw: float) -> None:
    probabilities = np.sort(np.array(weights) / sum(weights))[::-1]
    index = pick(probabilities, draw)
    assert 0 <= index < len(weights)
    assert probabilities[:index].sum() <= draw + 1e-12
    assert draw < probabilities[: index + 1].sum() + 1e-12


@pytest.mark.parametrize(("draw", "index"), [(0.0, 0), (0.49, 0), (0.5, 1), (0.74, 1), (0.75, 2), (0.999999, 2)])
def test_a_share_begins_at_its_left_edge(draw: float, index: int) -> None:
    assert pick(np.array([0.5, 0.25, 0.25]), draw) == index


def test_a_candidate_without_probability_is_never_picked() -> None:
    """Ten times 0.1 sums to a little less than one in floating point, and the largest draw lies right there."""
    largest_draw = np.nextafter(1.0, 0.0)
    assert pick(np.array([0.1] * 10 + [0.0]), float(largest_draw)) < 10
