"""Samples from a row of bfloat16 logits by counting equal ones: 128,256 logits have some 3,000 different values.

The tokens, ranks and counts are those of filter_logits and pick on the whole row, as in batch_sampler. Sums are in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from mllama_demo.engine.token_sampler import NO_TOKEN, apply_temperature, descending, reach
from mllama_demo.sampling import SamplingParams

BIT_PATTERNS = 2**16
SIGN = 2**15  # the bits of -0
INFINITY = 0x7F80  # greater bits with the same sign are NaN
ONE = torch.ones((), dtype=torch.int32)


def likeliest(row: torch.Tensor) -> int:
    """Returns the first token with the largest logit of row [vocabulary] bfloat16 on a CPU.

    NO_TOKEN if a logit is NaN or the largest is infinite.
    """
    signed = row.view(torch.int16).numpy()
    token = int(signed.argmax())
    top = int(signed[token])
    if top <= 0:  # the bits of negative numbers ascend the other way
        values = row.float().numpy()
        token = int(values.argmax())  # of NaN if there is one
        return token if math.isfinite(values[token]) else NO_TOKEN
    return token if top < INFINITY and int(signed.view(np.uint16).max()) <= SIGN | INFINITY else NO_TOKEN


@dataclass(frozen=True)
class Drawn:
    """What was sampled from a row.

    Attributes:
        rank: How many tokens come before the chosen one.
        after_top_k, after_top_p: How many tokens are left after the filter.
        masses: Sums of exp((logit - largest logit) / temperature) over the tokens left after temperature, top_k and top_p.
    """

    chosen: int
    rank: int
    after_top_k: int
    after_top_p: int
    masses: tuple[float, float, float]


class CountedTokens:
    """The tokens of a row in groups of equal logits.

    Attributes:
        logits: [groups] float64, descending. The first or the last is NaN if a logit is.
        counts: [groups] int64, how many tokens have the logit.
    """

    def __init__(self, row: torch.Tensor) -> None:
        """row: [vocabulary] bfloat16 on a CPU."""
        bits = row.view(torch.int16)
        self._bits = bits.numpy().view(np.uint16)
        numbers = bits.to(torch.int64).bitwise_and_(BIT_PATTERNS - 1)
        counts = torch.zeros(BIT_PATTERNS, dtype=torch.int32).scatter_add_(0, numbers, ONE.expand(len(row))).numpy()
        counts[0] += counts[SIGN]  # -0 equals 0
        counts[SIGN] = 0
        found = (counts != 0).nonzero()[0]
        negative = int(found.searchsorted(SIGN))
        patterns = np.concatenate([found[:negative][::-1], found[negative:]])
        self.counts = counts[patterns].astype(np.int64)
        self.logits = (patterns.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        self._patterns = patterns.astype(np.uint16)
        self._ends = self.counts.cumsum()

    @property
    def finite(self) -> bool:
        """Whether no logit is NaN and the largest is finite."""
        return math.isfinite(self.logits[0]) and not math.isnan(self.logits[-1])

    def mass(self) -> float:
        """Returns the sum of exp(logit - largest logit)."""
        return float(np.exp(self.logits - self.logits[0]) @ self.counts)

    def first(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids and the logits, float64, of the first `count` tokens: descending by logit, ties by id."""
        last = min(int(self._ends.searchsorted(count)), len(self.counts) - 1)
        pattern = self._patterns[last]
        if 0 < pattern < SIGN:
            ids = (self._bits.view(np.int16) >= pattern.astype(np.int16)).nonzero()[0]
        else:
            ids = np.concatenate([self._ids(group) for group in range(last + 1)])
        logits = (self._bits[ids].astype(np.uint32) << 16).view(np.float32)
        order = descending(logits)[:count]
        return ids[order], logits[order].astype(np.float64)

    def draw(self, params: SamplingParams, draw: float) -> Drawn:
        """Filters the tokens and picks the token of the random number `draw`."""
        scaled = apply_temperature(self.logits, params.temperature)
        weights = np.exp(scaled - scaled[0])
        masses = weights * self.counts
        total = float(masses.sum())
        groups = len(masses)
        if 0 < params.top_k < self._ends[-1]:
            groups = int(self._ends.searchsorted(params.top_k)) + 1  # with the ties of the last one
        left = float(masses[:groups].sum())
        probabilities, sums = weights[:groups] / left, (masses[:groups] / left).cumsum()

        def within(group: int) -> np.ndarray:
            """The sums of probabilities up to each token of the group."""
            before = float(sums[group - 1]) if group else 0.0
            return before + np.full(self.counts[group], probabilities[group]).cumsum()

        kept, nucleus = int(self._ends[groups - 1]), float(sums[-1])
        if params.top_p < 1:
            group = reach(sums, params.top_p, "left")
            steps = within(group)
            of_group = max(1, int((steps - probabilities[group]).searchsorted(params.top_p)))
            kept, nucleus = self._start(group) + of_group, float(steps[of_group - 1])
        group = reach(sums, draw * nucleus, "right")
        index = reach(within(group), draw * nucleus, "right")
        chosen = int(self._ids(group)[index])
        after_top_k = int(self._ends[groups - 1])
        return Drawn(chosen, self._start(group) + index, after_top_k, kept, (total, left, left * nucleus))

    def _start(self, group: int) -> int:
        return int(self._ends[group] - self.counts[group])

    def _ids(self, group: int) -> np.ndarray:
        """Returns the ids of the tokens of a group, ascending."""
        pattern = self._patterns[group]
        same = self._bits == pattern
        return (same if pattern else same | (self._bits == SIGN)).nonzero()[0]
