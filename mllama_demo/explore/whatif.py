"""A finished answer under other sampling values: which tokens would still have been possible, and how likely.

Nothing is generated. Results are exact where the recorded candidates decide. Where the tail (all candidates that are not
recorded) matters, the results are bounds that hold for any tail with the recorded mass. All results are for the context of the
recorded answer: after the first token that differs, the model would have continued in another way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllama_demo.engine.token_sampler import TokenTrace, pick
from mllama_demo.explore.filter_steps import is_forced
from mllama_demo.sampling import SamplingParams

Bounds = tuple[float, float]
# Relative rounding of a sum over a vocabulary in float64.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class TokenWhatIf:
    """One token under other values.

    Attributes:
        possible: whether the filters leave the answer's token; None where the tail decides.
        probability: bounds of its final probability.
        choice: the token that the same random number picks (greedy: the likeliest); None where the tail decides, or where there
            is no random number.
        candidates_left: bounds of the number of recorded candidates after the filters.
    """

    possible: bool | None
    probability: Bounds
    choice: int | None
    candidates_left: tuple[int, int]

    @property
    def exact(self) -> bool:
        """Whether the record decides everything. Bounds that differ only by rounding count as equal."""
        low, high = self.probability
        return self.possible is not None and high - low <= 1e-9 and self.candidates_left[0] == self.candidates_left[1]


@dataclass(frozen=True)
class WhatIf:
    """An answer under other values.

    Attributes:
        tokens: one for each token of the answer.
        first_difference: index of the first token that the same random numbers (or greedy) would choose differently; None when
            an earlier choice is unknown. Forced tokens are skipped.
        first_unknown: index of the first token whose choice the record does not decide.
        log_probability: bounds of the natural logarithm of the probability of the whole answer; -inf where it is impossible.
    """

    tokens: tuple[TokenWhatIf, ...]
    first_difference: int | None
    first_unknown: int | None
    log_probability: Bounds

    @property
    def impossible(self) -> tuple[int, ...]:
        """Indices of the tokens that could not have been chosen."""
        return tuple(i for i, token in enumerate(self.tokens) if token.possible is False)

    @property
    def tail_matters(self) -> tuple[int, ...]:
        """Indices of the tokens that the record does not decide."""
        return tuple(i for i, token in enumerate(self.tokens) if not token.exact)


@dataclass(frozen=True)
class CandidatesWhatIf:
    """The recorded candidates of one token under other values, in the order of the record.

    Attributes:
        after_temperature, after_top_k, final: bounds of each candidate's probability at the stage; 0 where a filter cut it.
        rest: bounds of the probability of all unrecorded candidates at these three stages.
        left_by_top_k: how many recorded candidates top_k leaves.
        left: bounds of the number of recorded candidates that top_p leaves.
        choice: see TokenWhatIf.
    """

    after_temperature: tuple[Bounds, ...]
    after_top_k: tuple[Bounds, ...]
    final: tuple[Bounds, ...]
    rest: tuple[Bounds, Bounds, Bounds]
    left_by_top_k: int
    left: tuple[int, int]
    choice: int | None


def candidates_what_if(
    traces: Sequence[TokenTrace], position: int, recorded: SamplingParams, params: SamplingParams
) -> CandidatesWhatIf:
    """The candidates of one token under other values. position: of the token in traces; the others are those of what_if."""
    trace, draw = traces[position], _draws(traces, recorded)[position]
    choice = _token(trace, recorded, params, draw).choice
    count = len(trace.logits)
    if params.greedy:
        only: tuple[Bounds, ...] = ((1.0, 1.0), *((0.0, 0.0),) * (count - 1))
        raw = tuple((float(p), float(p)) for p in trace.raw_probabilities())
        mass = trace.unrecorded_mass()
        left = 1 if params.top_k == 1 else count
        return CandidatesWhatIf(raw, only, only, ((mass, mass), (0.0, 0.0), (0.0, 0.0)), left, (1, 1), choice)
    weights = _weights(trace.logits, trace.logits[0], params.temperature)
    cap = float(weights[-1])
    tail = _tail(trace, recorded, params)
    first, first_rest = _shares(weights, _total(weights, tail), count, tail)
    remaining, tail = _after_top_k(trace, params.top_k, tail, cap)
    totals = _total(weights[:remaining], tail)
    second, second_rest = _shares(weights[:remaining], totals, count, tail)
    if tail == (0.0, 0.0):  # the filters themselves decide, with the same rounding as the sampler
        kept = trace.refilter(params).kept
        kept_mass = float(weights[:kept].sum())
        left, mass = (kept, kept), (kept_mass, kept_mass)
    else:
        left, mass = _after_top_p(weights[:remaining], totals, params.top_p, cap)
    third, _ = _shares(weights[: left[1]], mass, count, tail)
    third = tuple((0.0, high) if left[0] <= rank < left[1] else (low, high) for rank, (low, high) in enumerate(third))
    known = (sum(low for low, _ in third), sum(high for _, high in third))
    third_rest = (0.0, 0.0) if left[1] < remaining or tail == (0.0, 0.0) else (max(0.0, 1.0 - known[1]), max(0.0, 1.0 - known[0]))
    return CandidatesWhatIf(first, second, third, (first_rest, second_rest, third_rest), remaining, left, choice)


def _total(weights: np.ndarray, tail: Bounds) -> Bounds:
    total = float(weights.sum())
    return total + tail[0], total + tail[1]


def _shares(weights: np.ndarray, totals: Bounds, count: int, tail: Bounds) -> tuple[tuple[Bounds, ...], Bounds]:
    """Bounds of the probability of `count` candidates, those after the weights being cut, and of the tail."""

    def share(weight: float) -> Bounds:
        return (weight / totals[1] if totals[1] < math.inf else 0.0), min(1.0, weight / totals[0])

    shares = tuple(share(float(weight)) for weight in weights)
    known = float(weights.sum())
    rest = (tail[0] / (known + tail[0]), tail[1] / (known + tail[1]) if tail[1] < math.inf else 1.0)
    return (*shares, *((0.0, 0.0),) * (count - len(weights))), rest


def what_if(traces: Sequence[TokenTrace], recorded: SamplingParams, params: SamplingParams) -> WhatIf:
    """Evaluates an answer under other values.

    Args:
        traces: the record of every token.
        recorded: what the answer was sampled with. For a greedy answer, which drew no random numbers, its seed provides them.
        params: the other values.
    """
    draws = _draws(traces, recorded)
    tokens = tuple(_token(trace, recorded, params, draw) for trace, draw in zip(traces, draws, strict=True))
    difference = unknown = None
    for index, (token, trace) in enumerate(zip(tokens, traces, strict=True)):
        if is_forced(trace, recorded):
            continue
        if token.choice is None:
            unknown = index if unknown is None else unknown
        elif token.choice != trace.chosen:
            difference = index
            break
    if unknown is not None:
        difference = None
    low, high = (sum(_log(token.probability[end]) for token in tokens) for end in (0, 1))
    return WhatIf(tokens, difference, unknown, (low, high))


def _draws(traces: Sequence[TokenTrace], recorded: SamplingParams) -> list[float | None]:
    """The random number of each token; for a greedy answer those of its seed."""
    if not recorded.greedy or recorded.seed is None:
        return [trace.draw for trace in traces]
    return [float(number) for number in np.random.default_rng(recorded.seed).random(len(traces))]


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf


def _token(trace: TokenTrace, recorded: SamplingParams, params: SamplingParams, draw: float | None) -> TokenWhatIf:
    if params.greedy:
        chosen = trace.token_ids[0] == trace.chosen
        return TokenWhatIf(chosen, (float(chosen), float(chosen)), trace.token_ids[0], (1, 1))
    weights = _weights(trace.logits, trace.logits[0], params.temperature)
    cap = float(weights[-1])  # no candidate of the tail has a larger weight
    tail = _tail(trace, recorded, params)
    remaining, tail = _after_top_k(trace, params.top_k, tail, cap)
    if tail == (0.0, 0.0):
        return _decided(trace, params, draw)
    weights = weights[:remaining]
    total = float(weights.sum())
    totals = (total + tail[0], total + tail[1])
    nucleus, mass = _after_top_p(weights, totals, params.top_p, cap)
    possible, weight = _chosen(trace, params, weights, nucleus, totals, tail, cap)
    low, high = (weight / mass[1] if mass[1] < math.inf else 0.0), min(1.0, weight / mass[0])
    probability = (0.0, 0.0) if possible is False else (0.0 if possible is None else low, high)
    return TokenWhatIf(possible, probability, _choice(trace, weights, nucleus, mass, draw), nucleus)


def _decided(trace: TokenTrace, params: SamplingParams, draw: float | None) -> TokenWhatIf:
    """The result where the filters leave none of the tail. Runs the filters themselves, so that even the rounding is the same."""
    filtered = trace.refilter(params)
    left = filtered.order[: filtered.kept].tolist()
    probability = float(filtered.probabilities[left.index(trace.chosen)]) if trace.chosen in left else 0.0
    choice = None if draw is None else left[pick(filtered.probabilities, draw)]
    return TokenWhatIf(trace.chosen in left, (probability, probability), choice, (filtered.kept, filtered.kept))


def _weights(logits: Sequence[float], top: float, temperature: float) -> np.ndarray:
    return np.exp((np.asarray(logits, dtype=np.float64) - top) / temperature)


# --- the tail -------------------------------------------------------------------------------------------------------------


def _tail_at_1(trace: TokenTrace) -> Bounds:
    """Bounds of the mass of the tail at temperature 1, in units of the likeliest candidate's weight; they allow for rounding."""
    total = math.exp(trace.log_mass - trace.logits[0])
    mass = total - float(_weights(trace.logits, trace.logits[0], 1.0).sum())
    return max(0.0, mass - _ROUNDING * total), max(0.0, mass + _ROUNDING * total)


def _tail(trace: TokenTrace, recorded: SamplingParams, params: SamplingParams) -> Bounds:
    """Bounds of the mass of the tail at params' temperature, in units of the likeliest candidate's weight.

    The mass is known at temperature 1 and at the recorded temperature. For other temperatures, let M be the tail's mass at
    temperature 1, and c (cap) the smallest recorded weight. Consider sums of x**a over n values that are at most c and have the
    sum M. For a < 1 the sum is largest when all values are equal, and smallest when as many values as possible are c. For a > 1
    it is the other way round (Jensen's inequality).
    """
    size = None if trace.whole is None else trace.whole.size
    count = math.inf if size is None else size - len(trace.logits)
    if count == 0:
        return 0.0, 0.0
    masses = None if trace.whole is None else trace.whole.log_masses
    if masses is not None and params.temperature == recorded.temperature:
        total = math.exp(masses[0] - trace.logits[0] / params.temperature)
        mass = total - float(_weights(trace.logits, trace.logits[0], params.temperature).sum())
        return max(0.0, mass - _ROUNDING * total), max(0.0, mass + _ROUNDING * total)
    low, high = _tail_at_1(trace)
    power = 1.0 / params.temperature
    cap = math.exp(trace.logits[-1] - trace.logits[0])
    if power == 1.0:
        return low, high
    if cap == 0.0 or high == 0.0:
        return 0.0, (0.0 if high == 0.0 else math.inf)

    def crowded(mass: float) -> float:
        return mass * cap ** (power - 1)

    def spread(mass: float) -> float:
        if count == math.inf:
            return 0.0 if power > 1 else math.inf
        return count * min(mass / count, cap) ** power

    return (crowded(low), spread(high)) if power < 1 else (spread(low), crowded(high))


def _after_top_k(trace: TokenTrace, top_k: int, tail: Bounds, cap: float) -> tuple[int, Bounds]:
    """How many recorded candidates top_k leaves, and bounds of the mass of the tail that it leaves."""
    count = len(trace.logits)
    size = math.inf if trace.whole is None else trace.whole.size
    if top_k == 0 or top_k >= size:
        return count, tail
    if top_k <= count:
        remaining = int(np.searchsorted(-np.asarray(trace.logits), -trace.logits[top_k - 1], side="right"))
        if remaining < count or size == count:
            return remaining, (0.0, 0.0)
        # The last recorded candidate has the weight of the k-th: candidates of the same weight may follow in the tail.
        least = math.exp(trace.logits[-1] - trace.logits[0])
        ties = math.floor(_tail_at_1(trace)[1] / least) if least > 0 else math.inf
        return remaining, (0.0, min(tail[1], ties * cap) if ties else 0.0)
    # The j largest of n values have at least j / n of their sum.
    return count, (tail[0] * (top_k - count) / (size - count) if size < math.inf else 0.0, tail[1])


def _after_top_p(weights: np.ndarray, totals: Bounds, top_p: float, cap: float) -> tuple[tuple[int, int], Bounds]:
    """Bounds of the number of recorded candidates in the nucleus, and of the mass of the nucleus."""
    count, total = len(weights), float(weights.sum())
    if top_p >= 1.0:
        return (count, count), totals
    reached = np.cumsum(weights)
    before = reached - weights
    # At the edge of the nucleus rounding decides, and a sum over the whole vocabulary rounds differently.
    low, high = (
        count if end == math.inf else max(1, int(np.searchsorted(before / end, top_p + slack, side="left")))
        for end, slack in zip(totals, (-_ROUNDING, _ROUNDING), strict=True)
    )

    def reaches_tail(end: float) -> bool:
        return end > total and total < top_p * end

    least = max(total, top_p * totals[0]) if reaches_tail(totals[0]) else float(reached[low - 1])
    most = min(totals[1], top_p * totals[1] + cap) if reaches_tail(totals[1]) else float(reached[high - 1])
    return (low, high), (least, most)


# --- the answer's token, and the token that the same random number picks ---------------------------------------------------


def _chosen(
    trace: TokenTrace,
    params: SamplingParams,
    weights: np.ndarray,
    nucleus: tuple[int, int],
    totals: Bounds,
    tail: Bounds,
    cap: float,
) -> tuple[bool | None, float]:
    """Whether the filters leave the answer's token (None where the tail decides), and its weight."""
    if trace.chosen in trace.token_ids:
        rank = trace.token_ids.index(trace.chosen)
        if rank >= nucleus[1]:
            return False, 0.0
        return (True if rank < nucleus[0] else None), float(weights[rank])
    weight = float(_weights([trace.chosen_logit], trace.logits[0], params.temperature)[0])
    count = len(trace.logits)
    rank = count if trace.whole is None else trace.whole.chosen_rank
    left: bool | None = True
    if 0 < params.top_k <= count:
        left = trace.chosen_logit == trace.logits[params.top_k - 1]  # candidates that tie with the k-th are left
    elif 0 < params.top_k <= rank:
        left = None
    if left is False or params.top_p >= 1.0 or trace.whole is None:
        return (left if left is False or params.top_p >= 1.0 else None), weight
    total = float(weights.sum())
    before = (total + (rank - count) * weight, total + min(tail[1], (rank - count) * cap))
    if totals[1] < math.inf and before[0] >= params.top_p * totals[1]:
        return False, weight
    return (left if before[1] < params.top_p * totals[0] else None), weight


def _choice(trace: TokenTrace, weights: np.ndarray, nucleus: tuple[int, int], mass: Bounds, draw: float | None) -> int | None:
    if draw is None or mass[1] == math.inf:
        return None
    reached = np.cumsum(weights)
    first, last = (int(np.searchsorted(reached, draw * end, side="right")) for end in mass)
    return trace.token_ids[first] if first == last < nucleus[0] else None
