"""Filter steps against the warpers of transformers; what-if results against a rerun of the real sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mllama_demo.engine.token_sampler import RECORDED_CANDIDATES, TokenSampler, TokenTrace, filter_logits
from mllama_demo.explore.filter_steps import entropy, filter_steps
from mllama_demo.explore.whatif import candidates_what_if, what_if
from mllama_demo.sampling import SamplingParams
from tests.support.samplers import sample

STEPS = 12


def logits_of(seed: int, size: int = 500, spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=spread, size=size)


def generate(steps: Sequence[np.ndarray], params: SamplingParams) -> list[TokenTrace]:
    """The real sampler over the logits of some steps."""
    sampler = TokenSampler(params, trace=True)
    traces = [sample(sampler, logits)[1] for logits in steps]
    return [trace for trace in traces if trace is not None]


def warp(logits: np.ndarray, params: SamplingParams) -> list[np.ndarray]:
    """transformers' scores after temperature, top_k and top_p, chained as `generate` chains them; -inf where cut."""
    ids: Any = torch.empty(1, 0, dtype=torch.long)
    scores: Any = torch.from_numpy(logits)[None]
    stages = [TemperatureLogitsWarper(float(params.temperature))(ids, scores)]
    stages.append(TopKLogitsWarper(params.top_k)(ids, stages[-1]) if params.top_k else stages[-1])
    stages.append(TopPLogitsWarper(params.top_p)(ids, stages[-1]) if params.top_p < 1 else stages[-1])
    return [stage[0].numpy() for stage in stages]


def random_params(rng: np.random.Generator, seed: int) -> SamplingParams:
    return SamplingParams(
        temperature=float(rng.choice([0.0, 0.2, 0.7, 1.0, 1.3, 2.0])),
        top_p=float(rng.choice([0.05, 0.5, 0.9, 0.99, 1.0])),
        top_k=int(rng.choice([0, 0, 1, 2, 10, 64, 65, 100, 200])),
        seed=seed,
    )


# --- one token -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 2, 40, 150])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_every_stage_agrees_with_the_transformers_warpers(temperature: float, top_k: int, top_p: float) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, seed=1)
    for seed in range(4):
        logits = logits_of(seed)
        steps = filter_steps(generate([logits], params)[0], params)
        warped = warp(logits, params)
        assert steps.exact
        assert len(steps.candidates) == RECORDED_CANDIDATES
        for candidate in steps.candidates:
            ours = (candidate.after_temperature, candidate.after_top_k, candidate.final)
            for probability, stage in zip(ours, warped, strict=True):
                assert probability == pytest.approx(torch.from_numpy(stage).softmax(-1)[candidate.token_id].item(), abs=1e-6)
            cut = "top_k" if np.isneginf(warped[1][candidate.token_id]) else "top_p"
            assert candidate.cut_by == (cut if np.isneginf(warped[2][candidate.token_id]) else None)
        recorded = [candidate.token_id for candidate in steps.candidates]
        for mass, stage in zip(
            (steps.unrecorded.after_temperature, steps.unrecorded.after_top_k, steps.unrecorded.final), warped, strict=True
        ):
            inside = torch.from_numpy(stage).softmax(-1)[recorded].sum().item()
            assert mass == pytest.approx(1 - inside, abs=1e-6)
        assert steps.candidates_left == int(np.isfinite(warped[2]).sum())


def test_the_draw_lies_in_the_interval_of_the_chosen_candidate() -> None:
    params = SamplingParams(temperature=1.2, top_k=50, top_p=0.95, seed=4)
    for trace in generate([logits_of(seed) for seed in range(30)], params):
        steps = filter_steps(trace, params)
        assert steps.chosen_index is not None
        interval = steps.candidates[steps.chosen_index].draw_interval
        assert interval is not None
        assert trace.draw is not None
        assert interval[0] <= trace.draw < interval[1]


@pytest.mark.parametrize(
    ("params", "cut"), [(SamplingParams(temperature=0), "greedy"), (SamplingParams(temperature=1.5, top_k=1), "top_k")]
)
def test_greedy_cuts_all_but_the_likeliest_candidate(params: SamplingParams, cut: str) -> None:
    steps = filter_steps(generate([logits_of(0)], params)[0], params)
    first, *others = steps.candidates
    assert (first.final, first.cut_by, steps.draw, steps.chosen) == (1.0, None, None, first.token_id)
    assert {candidate.cut_by for candidate in others} == {cut}
    assert steps.unrecorded.final == 0


def test_steps_without_vocabulary_masses_are_exact_only_within_the_record() -> None:
    """Without the masses of the vocabulary, a nucleus that reaches beyond the record is not exact."""
    for params, exact in (
        (SamplingParams(temperature=0.7, top_k=20, seed=1), True),
        (SamplingParams(temperature=2.0, top_p=1.0, seed=1), False),
    ):
        trace = generate([logits_of(0)], params)[0]
        bare = filter_steps(replace(trace, whole=None), params)
        assert bare.exact is exact
        if exact:
            full = filter_steps(trace, params)
            assert [c.final for c in bare.candidates] == pytest.approx([c.final for c in full.candidates])


def test_entropy_of_coins_and_dice() -> None:
    assert entropy([0.5, 0.5]) == pytest.approx(1.0)
    assert entropy([1.0, 0.0]) == 0.0
    assert entropy([1 / 8] * 7, rest=1 / 8) == pytest.approx(3.0)


# --- a whole answer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", range(200))
def test_what_if_agrees_with_rerunning_the_sampler(case: int) -> None:
    """Every decided result holds with the same logits and seed; results are exact where the record is complete."""
    rng = np.random.default_rng(case)
    size, spread = int(rng.choice([50, 64, 65, 300, 1281])), float(rng.choice([0.5, 2.0, 4.0]))
    steps = [logits_of(1000 * case + step, size, spread) for step in range(STEPS)]
    if rng.random() < 0.3:
        steps = [np.round(logits) for logits in steps]  # ties, as bfloat16 makes them
    before, after = random_params(rng, case), random_params(rng, case)
    traces, again = generate(steps, before), generate(steps, after)
    result = what_if(traces, before, after)

    for logits, trace, rerun, token in zip(steps, traces, again, result.tokens, strict=True):
        filtered = filter_logits(logits, after)
        left = filtered.order[: filtered.kept].tolist()
        final = float(filtered.probabilities[left.index(trace.chosen)]) if trace.chosen in left else 0.0
        if token.possible is not None:
            assert token.possible == (trace.chosen in left)
        assert token.probability[0] - 1e-9 <= final <= token.probability[1] + 1e-9
        assert token.candidates_left[0] <= min(filtered.kept, len(trace.token_ids)) <= token.candidates_left[1]
        if token.choice is not None:
            assert token.choice == rerun.chosen
        if filtered.kept <= filtered.after_top_k < RECORDED_CANDIDATES or size <= RECORDED_CANDIDATES:
            assert token.exact
            assert token.choice == rerun.chosen

    differs = [trace.chosen != rerun.chosen for trace, rerun in zip(traces, again, strict=True)]
    if result.first_unknown is None:
        assert result.first_difference == (differs.index(True) if True in differs else None)
    elif result.first_difference is not None:
        assert differs.index(True) == result.first_difference
    else:
        assert not any(differs[: result.first_unknown])


def test_what_if_decides_most_tokens_of_a_peaked_distribution() -> None:
    """Complements the test above, which would pass if nothing were decided. The logits are peaked like a language model's."""
    decided = total = 0
    for case in range(100):
        rng = np.random.default_rng(case)
        steps = [logits_of(1000 * case + step, 1281, 6.0) for step in range(STEPS)]
        before, after = random_params(rng, case), random_params(rng, case)
        result = what_if(generate(steps, before), before, after)
        decided += sum(token.choice is not None for token in result.tokens)
        total += STEPS
    assert decided > 0.9 * total


def test_what_if_with_the_recorded_values_gives_the_probability_of_the_answer() -> None:
    params = SamplingParams(temperature=1.1, top_p=0.9, top_k=30, seed=8)
    steps = [logits_of(seed) for seed in range(STEPS)]
    traces = generate(steps, params)
    result = what_if(traces, params, params)
    expected = 0.0
    for logits, trace in zip(steps, traces, strict=True):
        filtered = filter_logits(logits, params)
        expected += math.log(filtered.probabilities[filtered.order.tolist().index(trace.chosen)])
    assert (result.first_difference, result.first_unknown, result.impossible, result.tail_matters) == (None, None, (), ())
    assert result.log_probability == pytest.approx((expected, expected))


def test_a_token_cut_by_a_smaller_top_k_makes_the_answer_impossible() -> None:
    params = SamplingParams(temperature=2.0, top_p=1.0, seed=3)
    traces = generate([logits_of(seed, 200, 1.0) for seed in range(STEPS)], params)
    result = what_if(traces, params, replace(params, top_k=2))
    beyond = tuple(i for i, trace in enumerate(traces) if trace.chosen not in trace.token_ids[:2])
    assert beyond
    assert result.impossible == beyond
    assert result.log_probability == (-math.inf, -math.inf)


def test_a_large_tail_gives_bounds_instead_of_a_probability() -> None:
    """A flat distribution at another temperature: most of the mass is outside the record."""
    params = SamplingParams(temperature=1.0, top_k=64, top_p=1.0, seed=3)
    steps = [logits_of(seed, 5000, 0.5) for seed in range(STEPS)]
    result = what_if(generate(steps, params), params, SamplingParams(temperature=1.6, top_p=1.0, seed=3))
    assert result.tail_matters == tuple(range(STEPS))
    assert all(token.possible for token in result.tokens)  # without top_k and top_p everything is left
    low, high = result.log_probability
    assert -math.inf < low < high < 0


def test_a_greedy_answer_is_evaluated_with_the_random_numbers_of_its_seed() -> None:
    steps = [logits_of(seed) for seed in range(STEPS)]
    greedy, warm = SamplingParams(temperature=0.0, seed=21), SamplingParams(temperature=1.0, top_k=40, top_p=1.0, seed=21)
    result = what_if(generate(steps, greedy), greedy, warm)
    assert [token.choice for token in result.tokens] == [trace.chosen for trace in generate(steps, warm)]
    assert what_if(generate(steps, greedy), replace(greedy, seed=None), warm).first_unknown == 0


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(65, 2000),
    spread=st.floats(0.05, 6.0),
    recorded=st.floats(0.1, 2.0),
    temperature=st.floats(0.05, 2.0),
    top_p=st.floats(0.01, 1.0),
)
def test_probability_bounds_hold_at_any_temperature(
    seed: int, size: int, spread: float, recorded: float, temperature: float, top_p: float
) -> None:
    before = SamplingParams(temperature=recorded, top_p=1.0, seed=seed)
    after = SamplingParams(temperature=temperature, top_p=top_p, seed=seed)
    logits = logits_of(seed, size, spread)
    (trace,) = generate([logits], before)
    (token,) = what_if([trace], before, after).tokens
    filtered = filter_logits(logits, after)
    order = filtered.order.tolist()
    rank = order.index(trace.chosen)
    final = float(filtered.probabilities[rank]) if rank < filtered.kept else 0.0
    assert token.probability[0] - 1e-9 <= final <= token.probability[1] + 1e-9
    if token.choice is not None:
        assert token.choice == generate([logits], after)[0].chosen


def test_a_sampler_with_skip_continues_the_random_numbers() -> None:
    params = SamplingParams(temperature=1.5, top_p=1.0, seed=5)
    whole = generate([logits_of(step) for step in range(10)], params)
    rest = TokenSampler(params, trace=True, skip=4)
    assert [sample(rest, logits_of(step)) for step in range(4, 10)] == [(trace.chosen, trace) for trace in whole[4:]]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_bounds_of_every_candidate_contain_what_transformers_computes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    recorded, params = random_params(rng, seed), random_params(rng, seed + 1)
    logits = logits_of(seed, int(rng.choice([40, 64, 65, 500])))
    (trace,) = generate([logits], recorded)
    found = candidates_what_if([trace], 0, recorded, params)
    if params.greedy:
        assert (found.final[0], sum(high for _, high in found.final), found.left) == ((1.0, 1.0), 1.0, (1, 1))
        return
    for stage, (bounds, scores) in enumerate(
        zip((found.after_temperature, found.after_top_k, found.final), warp(logits, params), strict=True)
    ):
        truth = np.exp(scores - scores.max())
        truth /= truth.sum()
        for (low, high), token_id in zip(bounds, trace.token_ids, strict=True):
            assert low - 1e-9 <= truth[token_id] <= high + 1e-9
        low, high = found.rest[stage]
        assert low - 1e-9 <= 1.0 - truth[list(trace.token_ids)].sum() <= high + 1e-9
    kept = sum(bool(np.isfinite(warp(logits, params)[2][token_id])) for token_id in trace.token_ids)
    assert found.left[0] <= kept <= found.left[1]
    assert found.left_by_top_k == sum(bool(np.isfinite(warp(logits, params)[1][token_id])) for token_id in trace.token_ids)


def test_the_candidates_of_the_recorded_values_are_those_of_the_filter_steps() -> None:
    params = SamplingParams(0.8, 0.9, 20, seed=3)
    traces = generate([logits_of(step) for step in range(4)], params)
    steps = filter_steps(traces[2], params)
    found = candidates_what_if(traces, 2, params, params)
    assert found.choice == traces[2].chosen
    assert [low for low, _ in found.final] == pytest.approx([candidate.final for candidate in steps.candidates])
    assert found.left == (steps.candidates_left, steps.candidates_left)
