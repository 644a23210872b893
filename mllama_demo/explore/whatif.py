"""A finished answer under other sampling values, with nothing generated: what would still have been possible, and how likely.

Exact wherever the recorded candidates decide. Where the tail outside of them matters, bounds are given that hold for any tail
with the recorded mass, and nothing is claimed beyond them. Everything is told of the answer's own context: from the first token
that would differ, the model would have gone another way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllama_demo.explore.filter_steps import chosen_by_hand
from mllama_demo.sampling import SamplingParams, TokenTrace, pick

Bounds = tuple[float, float]
# Relative rounding of a sum over a vocabulary in float64.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class TokenWhatIf:
    """One token under other values.

    possible: whether the answer's token is left by the filters; None where the tail decides. probability: its final
    probability, at least and at most. choice: the token that the same random number picks (greedy: the likeliest); None where
    the tail decides, or there is no random number. kept: how many recorded candidates are left, at least and at most.
    """

    possible: bool | None
    probability: Bounds
    choice: int | None
    kept: tuple[int, int]

    @property
    def exact(self) -> bool:
        """Whether the record decides everything; bounds that differ by rounding alone count as equal."""
        low, high = self.probability
        return self.possible is not None and high - low <= 1e-9 and self.kept[0] == self.kept[1]


@dataclass(frozen=True)
class WhatIf:
    """An answer under other values.

    first_difference: index of the first token that the same random numbers (or greedy) would choose differently, if no earlier
    choice is unknown; a token that was chosen by hand is given, whatever they would choose. first_unknown: the first whose choice
    the record does not decide. log_probability: natural logarithm of the probability of the whole answer, at least and at most;
    -inf where it is impossible.
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
        """Indices of the tokens of which the record does not tell everything."""
        return tuple(i for i, token in enumerate(self.tokens) if not token.exact)


def what_if(traces: Sequence[TokenTrace], recorded: SamplingParams, params: SamplingParams) -> WhatIf:
    """recorded: what the answer was generated with; its seed gives the random numbers where a greedy answer drew none."""
    draws = _draws(traces, recorded)
    tokens = tuple(_token(trace, recorded, params, draw) for trace, draw in zip(traces, draws, strict=True))
    difference = unknown = None
    for index, (token, trace) in enumerate(zip(tokens, traces, strict=True)):
        if chosen_by_hand(trace, recorded):
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
    """The random number of each token; for a greedy answer those that its seed would have given."""
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
    cap = float(weights[-1])  # no candidate of the tail weighs more
    tail = _tail(trace, recorded, params)
    alive, tail = _after_top_k(trace, params.top_k, tail, cap)
    if tail == (0.0, 0.0):
        return _decided(trace, params, draw)
    weights = weights[:alive]
    total = float(weights.sum())
    totals = (total + tail[0], total + tail[1])
    kept, mass = _after_top_p(weights, totals, params.top_p, cap)
    possible, weight = _chosen(trace, params, weights, kept, totals, tail, cap)
    low, high = (weight / mass[1] if mass[1] < math.inf else 0.0), min(1.0, weight / mass[0])
    probability = (0.0, 0.0) if possible is False else (0.0 if possible is None else low, high)
    return TokenWhatIf(possible, probability, _choice(trace, weights, kept, mass, draw), kept)


def _decided(trace: TokenTrace, params: SamplingParams, draw: float | None) -> TokenWhatIf:
    """Where nothing outside the record is left: the filters themselves, so that even their rounding is the same."""
    filtered = trace.refilter(params)
    left = filtered.order[: filtered.kept].tolist()
    probability = float(filtered.probabilities[left.index(trace.chosen)]) if trace.chosen in left else 0.0
    choice = None if draw is None else left[pick(filtered.probabilities, draw)]
    return TokenWhatIf(trace.chosen in left, (probability, probability), choice, (filtered.kept, filtered.kept))


def _weights(logits: Sequence[float], top: float, temperature: float) -> np.ndarray:
    return np.exp((np.asarray(logits, dtype=np.float64) - top) / temperature)


# --- the tail -------------------------------------------------------------------------------------------------------------


def _tail_at_1(trace: TokenTrace) -> Bounds:
    """Mass of the tail at temperature 1, in units of the likeliest candidate's; with room for rounding."""
    total = math.exp(trace.log_mass - trace.logits[0])
    mass = total - float(_weights(trace.logits, trace.logits[0], 1.0).sum())
    return max(0.0, mass - _ROUNDING * total), max(0.0, mass + _ROUNDING * total)


def _tail(trace: TokenTrace, recorded: SamplingParams, params: SamplingParams) -> Bounds:
    """Mass of the tail at params' temperature, in units of the likeliest candidate's.

    Known at temperature 1 and at the recorded one. Elsewhere from the tail's mass M at temperature 1 and from the cap c, the
    least recorded weight: a sum of x**a over n values with the sum M and none above c is, for a < 1, largest when all are
    equal and least when as many as can be are c; for a > 1 the other way round (Jensen's inequality).
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
    """How many recorded candidates top_k leaves, and what of the tail."""
    count = len(trace.logits)
    size = math.inf if trace.whole is None else trace.whole.size
    if top_k == 0 or top_k >= size:
        return count, tail
    if top_k <= count:
        alive = int(np.searchsorted(-np.asarray(trace.logits), -trace.logits[top_k - 1], side="right"))
        if alive < count or size == count:
            return alive, (0.0, 0.0)
        # The last recorded candidate ties with the k-th or is it: others of its weight may follow in the tail.
        least = math.exp(trace.logits[-1] - trace.logits[0])
        ties = math.floor(_tail_at_1(trace)[1] / least) if least > 0 else math.inf
        return alive, (0.0, min(tail[1], ties * cap) if ties else 0.0)
    # The likeliest j of n values have at least j / n of their sum.
    return count, (tail[0] * (top_k - count) / (size - count) if size < math.inf else 0.0, tail[1])


def _after_top_p(weights: np.ndarray, totals: Bounds, top_p: float, cap: float) -> tuple[tuple[int, int], Bounds]:
    """How many recorded candidates are in the nucleus, and the mass of it, at least and at most."""
    count, total = len(weights), float(weights.sum())
    if top_p >= 1.0:
        return (count, count), totals
    reached = np.cumsum(weights)
    before = reached - weights
    # On the edge itself rounding decides, and not the same way in a sum over the whole vocabulary.
    low, high = (
        count if end == math.inf else max(1, int(np.searchsorted(before / end, top_p + slack, side="left")))
        for end, slack in zip(totals, (-_ROUNDING, _ROUNDING), strict=True)
    )

    def into_the_tail(end: float) -> bool:
        return end > total and total < top_p * end

    least = max(total, top_p * totals[0]) if into_the_tail(totals[0]) else float(reached[low - 1])
    most = min(totals[1], top_p * totals[1] + cap) if into_the_tail(totals[1]) else float(reached[high - 1])
    return (low, high), (least, most)


# --- the answer's own token, and the one that the same number picks ---------------------------------------------------------


def _chosen(
    trace: TokenTrace,
    params: SamplingParams,
    weights: np.ndarray,
    kept: tuple[int, int],
    totals: Bounds,
    tail: Bounds,
    cap: float,
) -> tuple[bool | None, float]:
    """Whether the answer's token is left, and its weight."""
    if trace.chosen in trace.token_ids:
        rank = trace.token_ids.index(trace.chosen)
        if rank >= kept[1]:
            return False, 0.0
        return (True if rank < kept[0] else None), float(weights[rank])
    weight = float(_weights([trace.chosen_logit], trace.logits[0], params.temperature)[0])
    count = len(trace.logits)
    rank = count if trace.whole is None else trace.whole.chosen_rank
    left: bool | None = True
    if 0 < params.top_k <= count:
        left = trace.chosen_logit == trace.logits[params.top_k - 1]  # ties with the k-th are left
    elif 0 < params.top_k <= rank:
        left = None
    if left is False or params.top_p >= 1.0 or trace.whole is None:
        return (left if left is False or params.top_p >= 1.0 else None), weight
    total = float(weights.sum())
    before = (total + (rank - count) * weight, total + min(tail[1], (rank - count) * cap))
    if totals[1] < math.inf and before[0] >= params.top_p * totals[1]:
        return False, weight
    return (left if before[1] < params.top_p * totals[0] else None), weight


def _choice(trace: TokenTrace, weights: np.ndarray, kept: tuple[int, int], mass: Bounds, draw: float | None) -> int | None:
    if draw is None or mass[1] == math.inf:
        return None
    reached = np.cumsum(weights)
    first, last = (int(np.searchsorted(reached, draw * end, side="right")) for end in mass)
    return trace.token_ids[first] if first == last < kept[0] else None
