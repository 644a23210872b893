"""The filters that apply sampling values to logits, the draw of a token, and the record of what each filter removed.

Uses numpy only. Every backend that samples on the host draws here, and a finished answer can be filtered again here without a
model. The order is that of transformers and vLLM: temperature, then top_k, then top_p.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mllama_demo.sampling import SamplingParams

RECORDED_CANDIDATES = 64


# --- filters -------------------------------------------------------------------------------------------------------------


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """logits / temperature, in float64. logits: [n]. temperature must be > 0 (0 means greedy, which draws nothing)."""
    if temperature <= 0:
        raise ValueError("temperature 0 is greedy: take the argmax instead of dividing")
    return np.asarray(logits, dtype=np.float64) / temperature


def keep_top_k(sorted_logits: np.ndarray, top_k: int) -> int:
    """How many of the descending sorted_logits [n] survive top_k (0 = all). Ties with the k-th survive, as in transformers."""
    n = len(sorted_logits)
    if top_k <= 0 or top_k >= n:
        return n
    return int(np.searchsorted(-sorted_logits, -sorted_logits[top_k - 1], side="right"))


def keep_top_p(sorted_probabilities: np.ndarray, top_p: float) -> int:
    """How many of the descending sorted_probabilities [n] form the nucleus: the fewest whose sum reaches top_p, at least one.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration". A token survives while the mass before it is
    below top_p, which is what transformers' TopPLogitsWarper keeps.
    """
    if top_p >= 1.0:
        return len(sorted_probabilities)
    before = np.cumsum(sorted_probabilities) - sorted_probabilities
    return max(1, int(np.searchsorted(before, top_p, side="left")))


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits[0])  # descending: the first is the largest
    return weights / weights.sum()


def _log_sum_exp(logits: np.ndarray) -> float:
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum()))


@dataclass(frozen=True)
class Filtered:
    """The candidates after every filter, likeliest first.

    order: [n] token ids, descending by logit, ties by id. probabilities: [kept] renormalised. after_top_k >= kept: how many
    survived each filter; what lies between was cut by top_p, what lies beyond after_top_k by top_k.
    """

    order: np.ndarray
    probabilities: np.ndarray
    after_top_k: int

    @property
    def kept(self) -> int:
        return len(self.probabilities)


def filter_logits(logits: np.ndarray, params: SamplingParams) -> Filtered:
    """Applies temperature, top_k and top_p to logits [n]; greedy keeps exactly one."""
    logits = np.asarray(logits, dtype=np.float64)
    order = np.lexsort((np.arange(len(logits)), -logits))
    if params.greedy:
        return Filtered(order, np.ones(1), 1)
    scaled = apply_temperature(logits[order], params.temperature)
    after_k = keep_top_k(scaled, params.top_k)
    probabilities = _softmax(scaled[:after_k])
    kept = keep_top_p(probabilities, params.top_p)
    probabilities = probabilities[:kept]
    return Filtered(order, probabilities / probabilities.sum(), after_k)


def pick(probabilities: np.ndarray, draw: float) -> int:
    """Index of the candidate that a uniform draw in [0, 1) falls on; probabilities [n] sum to 1, likeliest first."""
    reached = np.cumsum(probabilities)
    # The sum may end a little below 1; the last candidate that adds to it takes what is missing.
    last = int(np.searchsorted(reached, reached[-1], side="left"))
    return min(int(np.searchsorted(reached, draw, side="right")), last)


# --- drawing and its record ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WholeVocabulary:
    """What a TokenTrace knows of the candidates that it does not record.

    size: tokens in the vocabulary. chosen_rank: how many candidates come before the chosen one, by logit, ties by id.
    log_masses: the log of the summed exp(logit / temperature) of what is left after temperature, after top_k and after top_p,
    so exp(logit / temperature - log_masses[stage]) is a candidate's probability at that stage; None for greedy.
    """

    size: int
    chosen_rank: int
    log_masses: tuple[float, float, float] | None


@dataclass(frozen=True)
class TokenTrace:
    """What the sampler saw at one step, enough to replay it with other values.

    token_ids, logits: [m] the likeliest candidates before any filter, descending, m <= RECORDED_CANDIDATES.
    log_mass: log of the summed exp(logit) over the whole vocabulary, so exp(logit - log_mass) is the raw probability.
    draw: the uniform number in [0, 1) that chose, None for greedy. chosen: the token id, chosen_logit its logit, since it need
    not be among the candidates. after_top_k, after_top_p: how many of the whole vocabulary survived each filter.
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

    def raw_probabilities(self) -> np.ndarray:
        """[m] probability of each recorded candidate under the unfiltered model at temperature 1."""
        return np.exp(np.asarray(self.logits) - self.log_mass)

    def unrecorded_mass(self) -> float:
        """Probability at temperature 1 of everything outside the recorded candidates."""
        return max(0.0, 1.0 - float(self.raw_probabilities().sum()))

    def refilter(self, params: SamplingParams) -> Filtered:
        """The filters with other values over the recorded candidates alone. Exact where the survivors all lie among them
        (greedy, or a top_k within the record); otherwise it leaves out the tail, whose size unrecorded_mass tells."""
        local = filter_logits(np.asarray(self.logits), params)
        return Filtered(np.asarray(self.token_ids)[local.order], local.probabilities, local.after_top_k)


@dataclass
class TokenSampler:
    """Draws one request's tokens. Its random numbers depend on the seed alone, never on who else is in the batch.

    skip: how many tokens of the answer are there already; their random numbers count as drawn.
    """

    params: SamplingParams
    trace: bool = False
    skip: int = 0
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.params.seed)
        self._random.random(self.skip)

    def sample(self, logits: np.ndarray) -> tuple[int, TokenTrace | None]:
        """Chooses a token from logits [vocabulary]; raises FloatingPointError when they are not finite numbers."""
        logits = np.asarray(logits)
        if np.isnan(logits).any() or not np.isfinite(logits.max()):
            raise FloatingPointError("the model returned logits that are not finite numbers")
        if self.params.greedy and not self.trace:
            return int(np.argmax(logits)), None
        filtered = filter_logits(logits, self.params)
        draw = None if self.params.greedy else float(self._random.random())
        rank = 0 if draw is None else pick(filtered.probabilities, draw)
        chosen = int(filtered.order[rank])
        if not self.trace:
            return chosen, None
        recorded = filtered.order[:RECORDED_CANDIDATES]
        recorded = recorded[np.isfinite(logits[recorded])]
        return chosen, TokenTrace(
            token_ids=tuple(int(i) for i in recorded),
            logits=tuple(float(x) for x in np.asarray(logits, dtype=np.float64)[recorded]),
            log_mass=_log_sum_exp(np.asarray(logits, dtype=np.float64)),
            chosen=chosen,
            chosen_logit=float(logits[chosen]),
            draw=draw,
            after_top_k=filtered.after_top_k,
            after_top_p=filtered.kept,
            whole=WholeVocabulary(len(logits), rank, self._log_masses(logits[filtered.order], filtered)),
        )

    def _log_masses(self, descending: np.ndarray, filtered: Filtered) -> tuple[float, float, float] | None:
        if self.params.greedy:
            return None
        scaled = apply_temperature(descending, self.params.temperature)
        left = (len(scaled), filtered.after_top_k, filtered.kept)
        temperature, top_k, top_p = (_log_sum_exp(scaled[:count]) for count in left)
        return temperature, top_k, top_p
