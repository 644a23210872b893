"""Finds where the sum of probabilities, in descending order, reaches a number, without sorting the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mllama_demo.engine.token_sampler import descending, reach

GROUPS = 4096  # a power of 2
ROUNDING = 2.0**23
LONGEST_SORT = 2048  # more tokens are divided into groups


@dataclass(frozen=True)
class Tokens:
    """Tokens to put in order.

    Attributes:
        logits: [tokens], ascending by token id; -inf allowed.
        weights: [tokens] float64, proportional to the probabilities, which grow with the logits.
        total: The weight of probability 1.
        before: The probability of the tokens that come before these. It is part of every sum.
        widest: Tokens whose logits are so much below the largest of these have almost no weight.
        largest: The largest of the logits; None if it is not known.
        ranks: Whether ranks and counts are asked for. Without them, the tokens before a group are not counted.
    """

    logits: torch.Tensor
    weights: torch.Tensor
    total: float
    widest: float
    before: float = 0.0
    largest: float | None = None
    ranks: bool = True

    def in_order(self) -> SortedTokens | GroupedTokens:
        """Returns the tokens in the class that is fast for them."""
        if len(self.logits) <= LONGEST_SORT:
            return SortedTokens(self)
        on_cpu = self.logits.device.type == "cpu"  # numpy takes a fraction of the time of torch
        values = self.logits.numpy() if on_cpu else self.logits
        smallest, largest = float(values.min()), float(values.max()) if self.largest is None else self.largest
        if largest - smallest < 1e-30:  # a scale of float32 could not divide them
            return SortedTokens(self)
        return GroupedTokens(self, smallest, largest)


class SortedTokens:
    """Tokens in the order of filter_logits: descending by logit, ties by id. For few tokens, or equal ones."""

    def __init__(self, tokens: Tokens) -> None:
        self._order = descending(tokens.logits.cpu().numpy())
        self._probabilities = tokens.weights.cpu().numpy()[self._order] / tokens.total
        self._sums = tokens.before + self._probabilities.cumsum()
        self.sum = float(self._sums[-1])

    def nucleus(self, top_p: float) -> tuple[int, float]:
        """Returns how many of the tokens top_p keeps, as keep_top_p counts, and the sum with them."""
        kept = max(1, int((self._sums - self._probabilities).searchsorted(top_p)))
        return kept, float(self._sums[kept - 1])

    def pick(self, target: float) -> tuple[int, int]:
        """Returns the index and the rank of the token with which the sum exceeds `target`."""
        rank = reach(self._sums, target, "right")
        return int(self._order[rank]), rank


class GroupedTokens:
    """The same as SortedTokens for any number of tokens, in groups of similar logits. Only the group that is asked for is sorted.

    The ranks and counts are wrong without tokens.ranks.

    Args:
        smallest, largest: The ends of the logits. The last group has all that are more than tokens.widest below `largest`.
    """

    def __init__(self, tokens: Tokens, smallest: float, largest: float) -> None:
        self._tokens = tokens
        below = (largest - tokens.logits).float()
        if largest - smallest > tokens.widest:
            below.clamp_(max=tokens.widest)
        per_logit = (GROUPS - 1) / min(largest - smallest, tokens.widest)
        # The same as (below * per_logit).round().int() in half the time: a float32 from 2**23 has an integer in its last bits.
        # Rounding keeps the order: a larger logit is in no later group.
        torch.add(below.new_tensor(ROUNDING), below, alpha=per_logit, out=below)
        self._groups = below.view(torch.int32).bitwise_and_(GROUPS - 1)
        weights = tokens.weights.new_zeros(GROUPS).scatter_add_(0, self._groups.long(), tokens.weights)
        self._sums = tokens.before + weights.cumsum(0).cpu().numpy() / tokens.total
        self.sum = float(self._sums[-1])

    def nucleus(self, top_p: float) -> tuple[int, float]:
        rank, _, tokens = self._group(reach(self._sums, top_p, "left"))
        kept, mass = tokens.nucleus(top_p)
        return rank + kept, mass

    def pick(self, target: float) -> tuple[int, int]:
        rank, ids, tokens = self._group(reach(self._sums, target, "right"))
        index, more = tokens.pick(target)
        return int(ids[index]), rank + more

    def _group(self, group: int) -> tuple[int, torch.Tensor, SortedTokens | GroupedTokens]:
        """Returns how many tokens come before the group, the indices of its tokens, and the tokens."""
        tokens, ids = self._tokens, indices(self._groups, lambda groups: groups == group)
        before = float(self._sums[group - 1]) if group else tokens.before
        inner = replace(tokens, logits=tokens.logits[ids], weights=tokens.weights[ids], before=before, largest=None)
        return count(self._groups, lambda groups: groups < group) if tokens.ranks else 0, ids, inner.in_order()


def indices(values: torch.Tensor, test: Callable[[Any], Any]) -> torch.Tensor:
    """Returns the indices, ascending, at which test(values) holds for values [n]."""
    if values.device.type == "cpu":  # numpy takes a fraction of the time of torch
        return torch.from_numpy(test(values.numpy()).nonzero()[0])
    return test(values).nonzero()[:, 0]


def count(values: torch.Tensor, test: Callable[[Any], Any]) -> int:
    """Returns at how many indices test(values) holds for values [n]."""
    return int(np.count_nonzero(test(values.numpy())) if values.device.type == "cpu" else test(values).sum())
