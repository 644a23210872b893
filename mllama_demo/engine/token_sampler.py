"""Samples tokens from logits with numpy, and records what each filter removed.

Every backend that samples on the host uses TokenSampler. TokenTrace.refilter applies other values to a finished answer, without
a model. The order of the filters is that of transformers and vLLM: temperature, then top_k, then top_p.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mllama_demo.sampling import SamplingParams

RECORDED_CANDIDATES = 64  # of each step, in a TokenTrace
NO_TOKEN = -1  # in place of a token's id where none could be sampled
NOT_FINITE = "the model returned logits that are not finite numbers"


# --- filters -------------------------------------------------------------------------------------------------------------


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Returns logits [n] / temperature in float64. Raises ValueError for temperature 0, which means greedy."""
    if temperature <= 0:
        raise ValueError("temperature 0 is greedy: take the argmax instead of dividing")
    return np.asarray(logits, dtype=np.float64) / temperature


def keep_top_k(sorted_logits: np.ndarray, top_k: int) -> int:
    """Returns how many of the descending sorted_logits [n] top_k keeps (0: all). Keeps ties with the k-th, like transformers."""
    n = len(sorted_logits)
    if top_k <= 0 or top_k >= n:
        return n
    return int((-sorted_logits).searchsorted(-sorted_logits[top_k - 1], side="right"))


def keep_top_p(sorted_probabilities: np.ndarray, top_p: float) -> int:
    """Returns how many of the descending sorted_probabilities [n] top_p keeps: the fewest whose sum reaches top_p, at least one.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration". A token is kept if the sum before it is below top_p,
    as in transformers' TopPLogitsWarper.
    """
    if top_p >= 1.0:
        return len(sorted_probabilities)
    before = sorted_probabilities.cumsum() - sorted_probabilities
    return max(1, int(before.searchsorted(top_p, side="left")))


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits[0])  # logits are descending, so logits[0] is the maximum
    return weights / weights.sum()


@dataclass(frozen=True)
class Filtered:
    """The candidates after all filters. top_k keeps the first `after_top_k` of `order`; top_p keeps the first `kept`.

    Attributes:
        order: [n] token ids, descending by logit, ties by id.
        probabilities: [kept] renormalised probabilities.
        after_top_k: Number of candidates that top_k keeps.
    """

    order: np.ndarray
    probabilities: np.ndarray
    after_top_k: int

    @property
    def kept(self) -> int:
        return len(self.probabilities)


def descending(logits: np.ndarray) -> np.ndarray:
    """Returns the indices of logits [n], the largest logit first, equal ones by index."""
    if logits.dtype != np.float32:
        return (-logits).argsort(kind="stable")
    # numpy sorts integers without branches, several times as fast as it sorts indices. Each integer here has the bits of a logit,
    # which have its order, in the upper half, and the index in the lower half.
    bits = (logits + np.float32(0)).view(np.int32)  # the sum has no -0.0
    keys = np.where(bits < 0, bits ^ np.int32(-(2**31)), ~bits).astype(np.int64)
    keys <<= 32
    keys |= np.arange(len(logits))
    keys.sort()
    return keys & 0xFFFFFFFF


def filter_logits(logits: np.ndarray, params: SamplingParams) -> Filtered:
    """Applies temperature, top_k and top_p to logits [n]. Greedy keeps exactly one candidate."""
    logits = np.asarray(logits, dtype=np.float64)
    order = descending(logits)
    if params.greedy:
        return Filtered(order, np.ones(1), 1)
    scaled = apply_temperature(logits[order], params.temperature)
    after_k = keep_top_k(scaled, params.top_k)
    probabilities = _softmax(scaled[:after_k])
    kept = keep_top_p(probabilities, params.top_p)
    probabilities = probabilities[:kept]
    return Filtered(order, probabilities / probabilities.sum(), after_k)


def pick(probabilities: np.ndarray, draw: float) -> int:
    """Returns the index of the candidate that a uniform draw in [0, 1) selects from probabilities [n], which sum to 1."""
    return reach(probabilities.cumsum(), draw, "right")


def reach(sums: np.ndarray, target: float, side: Literal["left", "right"]) -> int:
    """Returns the first index at which cumulative sums [n] reach `target` ("left") or exceed it ("right").

    Rounding may leave all sums below. The last index that adds something is returned then.
    """
    last = int(sums.searchsorted(sums[-1], side="left"))
    return min(int(sums.searchsorted(target, side=side)), last)


# --- drawing and its record ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WholeVocabulary:
    """Numbers about the whole vocabulary of one step, beyond the candidates that a TokenTrace records.

    Attributes:
        size: Tokens in the vocabulary.
        chosen_rank: How many candidates come before the chosen one, by logit, ties by id.
        log_masses: Logarithm of the sum of exp(logit / temperature) over the candidates left after temperature, top_k and top_p.
            exp(logit / temperature - log_masses[stage]) is a probability at that stage. None for greedy.
    """

    size: int
    chosen_rank: int
    log_masses: tuple[float, float, float] | None


@dataclass(frozen=True)
class TokenTrace:
    """The record of one sampling step, enough to repeat the step with other sampling values.

    Attributes:
        token_ids: [m] the likeliest candidates before any filter, descending; m <= 64.
        logits: [m] of token_ids.
        log_mass: Logarithm of the sum of exp(logit) over the vocabulary. exp(logit - log_mass) is an unfiltered probability.
        chosen: The sampled token id, which may be outside the recorded candidates.
        chosen_logit: Its logit.
        draw: The uniform random number in [0, 1) that selected the token; None for greedy.
        after_top_k, after_top_p: How many tokens of the whole vocabulary are left after the filter.
        reported: A server sent the record, as log probabilities: the logits. The server does not tell the random number and the
            size of the vocabulary, and the counts are those of the candidates that it sent.
    """

    token_ids: tuple[int, ...]
    logits: tuple[float, ...]
    log_mass: float
    chosen: int
    chosen_logit: float
    draw: float | None
    after_top_k: int
    after_top_p: int
    whole: WholeVocabulary | None = None
    reported: bool = False

    def raw_probabilities(self) -> np.ndarray:
        """Returns the probabilities [m] of the recorded candidates at temperature 1 without filters."""
        return np.exp(np.asarray(self.logits) - self.log_mass)

    def unrecorded_mass(self) -> float:
        """Returns the probability at temperature 1 of all tokens outside the recorded candidates."""
        return max(0.0, 1.0 - float(self.raw_probabilities().sum()))

    def refilter(self, params: SamplingParams) -> Filtered:
        """Applies other sampling values to the recorded candidates.

        The result is exact if the values keep recorded candidates only (greedy, or a top_k of at most m). Otherwise the tail of
        the vocabulary is missing; unrecorded_mass returns its probability.
        """
        local = filter_logits(np.asarray(self.logits), params)
        return Filtered(np.asarray(self.token_ids)[local.order], local.probabilities, local.after_top_k)


@dataclass
class TokenSampler:
    """Samples the tokens of one request. The random numbers depend on the seed alone, not on other requests in the batch.

    Attributes:
        trace: A TokenTrace of each token is wanted.
        skip: How many tokens of the answer exist already. Their random numbers are skipped.
    """

    params: SamplingParams
    trace: bool = False
    skip: int = 0
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.params.seed)
        self._random.random(self.skip)

    def draw(self) -> float:
        """Returns the uniform random number in [0, 1) that selects the next token."""
        return float(self._random.random())
