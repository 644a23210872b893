"""Rows are sampled as if each were sorted whole: the same tokens, ranks and counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mllama_demo.engine import batch_sampler, token_groups
from mllama_demo.engine.batch_sampler import sample_rows
from mllama_demo.engine.token_sampler import NO_TOKEN, TokenSampler, TokenTrace, filter_logits
from mllama_demo.sampling import SamplingParams
from tests.support.one_thread import one_thread as one_thread
from tests.support.recorded_steps import RECORD, VOCABULARIES, answers, columns
from tests.support.samplers import sample, sample_by_sorting


def reference(logits: np.ndarray, params: SamplingParams, skip: int = 0) -> TokenTrace:
    random = np.random.default_rng(params.seed)
    random.random(skip)
    return sample_by_sorting(logits, params, random)


def assert_same(trace: TokenTrace | None, expected: TokenTrace) -> None:
    """The traces are equal, but for the rounding of sums."""
    assert trace is not None
    assert trace.whole is not None
    assert expected.whole is not None
    masses, expected_masses = (t.whole and t.whole.log_masses for t in (trace, expected))
    assert (masses is None) == (expected_masses is None)
    assert masses == pytest.approx(expected_masses, abs=1e-10)
    assert trace.log_mass == pytest.approx(expected.log_mass, abs=1e-10)
    assert trace == replace(expected, log_mass=trace.log_mass, whole=replace(expected.whole, log_masses=masses))


# --- recorded steps ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_seed_gives_the_tokens_that_it_always_gave(vocabulary: int) -> None:
    traces = []
    for answer in answers(vocabulary):
        with_trace, without = (TokenSampler(answer.params, trace, answer.skip) for trace in (True, False))
        for logits in answer.logits:
            (token, trace), (same, no_trace) = sample_rows([with_trace, without], torch.from_numpy(np.stack([logits, logits])))
            assert trace is not None
            assert no_trace is None
            assert token == same == trace.chosen
            traces.append(trace)
    assert len(traces) >= 1_280
    recorded = np.load(RECORD)
    for name, values in columns(traces).items():
        if name.startswith("log_mass"):
            np.testing.assert_allclose(values, recorded[f"{vocabulary} {name}"], rtol=0, atol=1e-10, err_msg=name)
        else:
            np.testing.assert_array_equal(values, recorded[f"{vocabulary} {name}"], err_msg=name)


# --- against sorting -----------------------------------------------------------------------------------------------------


few_logits = st.lists(st.sampled_from([-np.inf, -3.0, -0.0, 0.0, 0.5, 0.5000001, 1.0, 2.0]), min_size=1, max_size=50).filter(
    lambda logits: max(logits) > -np.inf
)
any_logits = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50)
equal_logits = st.builds(lambda size, logit: [logit] * size, st.integers(1, 50), st.floats(-1e4, 1e4, width=32))
vocabularies = st.one_of(few_logits, any_logits, equal_logits).map(lambda logits: np.array(logits, dtype=np.float32))
values = st.builds(
    SamplingParams,
    temperature=st.one_of(st.just(0.0), st.floats(1e-4, 2.0)),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 1.0), st.integers(1, 80).map(lambda n: max(0.01, n / 80))),
    top_k=st.integers(0, 90),
    seed=st.integers(0, 1_000),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(logits=vocabularies, params=values, at_bound=st.one_of(st.none(), st.integers(0, 79)))
def test_a_small_vocabulary_is_sampled_as_if_sorted_also_where_top_p_is_a_sum_of_probabilities(
    logits: np.ndarray, params: SamplingParams, at_bound: int | None
) -> None:
    if at_bound is not None:
        sums = np.cumsum(filter_logits(logits, replace(params, top_p=1.0)).probabilities)
        params = replace(params, top_p=float(np.clip(sums[at_bound % len(sums)], 0.01, 1.0)))
    expected = reference(logits, params, skip=3)
    token, trace = sample(TokenSampler(params, trace=True, skip=3), logits)
    assert token == expected.chosen == sample(TokenSampler(params, skip=3), logits)[0]
    assert_same(trace, expected)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits with which a vocabulary of ten tokens takes the way of a large one."""
    monkeypatch.setattr(batch_sampler, "SORTED_WHOLE", 8)
    monkeypatch.setattr(batch_sampler, "HEAD", 4)
    monkeypatch.setattr(batch_sampler, "LONGEST_HEAD", 6)
    monkeypatch.setattr(batch_sampler, "RECORDED_CANDIDATES", 4)
    monkeypatch.setattr(token_groups, "LONGEST_SORT", 2)
    monkeypatch.setattr(token_groups, "GROUPS", 4)


@pytest.mark.slow
@pytest.mark.usefixtures("small_limits")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=300)
@given(logits=vocabularies, params=values, top_k=st.integers(0, 4))
def test_a_vocabulary_that_is_not_sorted_is_sampled_as_if_it_were(logits: np.ndarray, params: SamplingParams, top_k: int) -> None:
    params = replace(params, top_k=top_k)
    before = np.cumsum(filter_logits(logits, replace(params, top_p=1.0)).probabilities)
    # On a bound, the rounding of the sums decides, which is that of sorted tokens only for equal logits.
    assume(params.top_p == 1.0 or len(set(logits)) == 1 or np.abs(before - params.top_p).min() > 1e-12)
    expected = reference(logits, params)
    token, trace = sample(TokenSampler(params, trace=True), logits)
    assert token == expected.chosen == sample(TokenSampler(params), logits)[0]
    assert_same(trace, replace(expected, token_ids=expected.token_ids[:4], logits=expected.logits[:4]))


LARGE = {
    "equal": np.zeros(128_256),
    "two values": np.arange(128_256) % 2,
    "one large block": np.where(np.arange(128_256) < 5_000, np.linspace(9, 5, 128_256), -5),
    "almost equal": 7 + 1e-5 * np.sin(np.arange(128_256)),
    "one of many": np.where(np.arange(128_256) == 99_999, 40, 0),
    "many impossible": np.where(np.arange(128_256) % 1_000 == 5, np.linspace(0, 3, 128_256), -np.inf),
    "an outlier below": np.where(np.arange(128_256) == 5, -1e9, np.sin(np.arange(128_256))),
    "not a multiple of blocks": 3 * np.sin(np.arange(128_001)),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("top_k", [0, 40])
@pytest.mark.parametrize("top_p", [0.3, 0.999, 1.0])
def test_large_vocabularies_of_odd_shapes_are_sampled_as_if_sorted(name: str, top_k: int, top_p: float) -> None:
    logits = LARGE[name].astype(np.float32)
    params = SamplingParams(temperature=2.0, top_p=top_p, top_k=top_k, seed=7)
    assert_same(sample(TokenSampler(params, trace=True), logits)[1], reference(logits, params))


# --- bfloat16 on a CPU ---------------------------------------------------------------------------------------------------


def rounded(logits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(logits.astype(np.float32)).bfloat16()


def assert_counted_as_sorted(row: torch.Tensor, params: SamplingParams) -> None:
    """Samples row [vocabulary] bfloat16 with a trace and without."""
    expected = reference(row.float().numpy(), params)
    [(token, trace), (same, _)] = sample_rows([TokenSampler(params, trace=True), TokenSampler(params)], torch.stack([row, row]))
    assert token == expected.chosen == same
    assert_same(trace, expected)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("top_k", [0, 40])
@pytest.mark.parametrize("top_p", [0.3, 0.999, 1.0])
def test_bfloat16_rows_of_odd_shapes_are_sampled_as_if_sorted(name: str, top_k: int, top_p: float) -> None:
    assert_counted_as_sorted(rounded(LARGE[name]), SamplingParams(temperature=2.0, top_p=top_p, top_k=top_k, seed=7))


@pytest.mark.parametrize("spread", [0.3, 3.0, 8.0])
@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize(("top_p", "top_k"), [(0.01, 0), (0.9, 0), (0.9, 50), (1.0, 0), (1.0, 200)])
def test_bfloat16_rows_are_sampled_as_if_sorted(spread: float, temperature: float, top_p: float, top_k: int) -> None:
    for seed in range(4):
        logits = np.random.default_rng(seed).normal(scale=spread, size=9_000)
        assert_counted_as_sorted(rounded(logits), SamplingParams(temperature, top_p, top_k, seed=seed))


@pytest.mark.parametrize("zeros", [(0.0, -0.0), (-0.0, 0.0), (-0.0, -0.0)])
@pytest.mark.parametrize("rest", [-20.0, -torch.inf])
def test_zeros_of_both_signs_are_equal_logits(zeros: tuple[float, float], rest: float) -> None:
    row = torch.full((3_000,), rest, dtype=torch.bfloat16)
    row[7], row[2_900] = zeros
    for seed in range(4):
        assert_counted_as_sorted(row, SamplingParams(temperature=1.0, top_p=0.9, seed=seed))
    assert sample_rows([TokenSampler(SamplingParams(temperature=0.0))], row[None])[0][0] == 7


def test_the_likeliest_of_negative_bfloat16_logits_is_chosen() -> None:
    row = rounded(-1 - np.random.default_rng(1).random(3_000))
    assert sample_rows([TokenSampler(SamplingParams(temperature=0.0))], row[None])[0][0] == int(row.float().argmax())


# --- several rows --------------------------------------------------------------------------------------------------------


def test_the_rows_of_a_batch_are_sampled_as_they_would_be_alone() -> None:
    logits = np.random.default_rng(5).normal(scale=3, size=(6, 5_000)).astype(np.float32)
    each = [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=2.0, top_p=1.0, seed=1),
        SamplingParams(temperature=1.0, top_p=0.9, seed=1),
        SamplingParams(temperature=0.7, top_k=30, seed=2),
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=1.0, top_p=0.9, seed=1),
    ]
    traced = [True, True, False, False, False, True]
    samplers, alone = ([TokenSampler(params, trace) for params, trace in zip(each, traced, strict=True)] for _ in range(2))
    for _ in range(3):
        expected = [sample(sampler, row) for sampler, row in zip(alone, logits, strict=True)]
        assert sample_rows(samplers, torch.from_numpy(logits)) == expected
    assert [trace is not None for _, trace in expected] == traced


@pytest.mark.parametrize("size", [50, 3_000])
@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("greedy", [False, True])
def test_a_row_that_is_not_finite_has_no_token_and_changes_no_other_row(
    size: int, bad: float, dtype: torch.dtype, greedy: bool
) -> None:
    logits = torch.from_numpy(np.random.default_rng(5).normal(size=(3, size)).astype(np.float32)).to(dtype)
    broken = logits.clone()
    broken[1, 7] = bad
    each = [SamplingParams(temperature=0.0), *[SamplingParams(temperature=0.0 if greedy else 1.0, top_p=0.9, seed=4)] * 2]
    samplers, untouched = ([TokenSampler(params, trace=not greedy) for params in each] for _ in range(2))
    expected = sample_rows(untouched, logits)
    assert sample_rows(samplers, broken) == [expected[0], (NO_TOKEN, None), expected[2]]
    assert sample_rows(samplers[1:2], logits[1:2]) == expected[1:2], "it drew no random number"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_without_a_finite_row_fails_before_any_random_number_is_drawn(dtype: torch.dtype) -> None:
    samplers = [TokenSampler(SamplingParams(temperature=1.0, top_p=1.0, seed=4)) for _ in range(2)]
    with pytest.raises(FloatingPointError, match="not finite"):
        sample_rows(samplers, torch.full((2, 3_000), torch.nan, dtype=dtype))
    logits = torch.zeros(1, 3_000, dtype=dtype)
    fresh = TokenSampler(SamplingParams(temperature=1.0, top_p=1.0, seed=4))
    assert sample_rows(samplers[:1], logits) == sample_rows([fresh], logits)
