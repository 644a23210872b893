"""Sampling values with their bounds, the filters that apply them, and the record of what each filter cut.

Pure numpy: the UI and the API read the bounds here, every host-sampling backend draws here, and a finished answer can be
re-filtered here without a model. The order is that of transformers and vLLM: temperature, then top_k, then top_p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mllama_demo.errors import BadRequest

RECORDED_CANDIDATES = 64
# vLLM draws the same line.
GREEDY_BELOW = 1e-5


@dataclass(frozen=True)
class Bound:
    """The legal range of one value, its default and how a person would call it. hint: a few words beside a slider."""

    label: str
    minimum: float
    maximum: float
    default: float
    step: float
    hint: str
    help: str

    def check(self, name: str, value: Any) -> None:
        """Raises BadRequest naming the value and the range unless minimum <= value <= maximum."""
        is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        if isinstance(value, bool) or not is_number or not self.minimum <= value <= self.maximum or (self.whole and value % 1):
            kind = "a whole number" if self.whole else "a number"
            raise BadRequest(f"{name} must be {kind} from {_plain(self.minimum)} to {_plain(self.maximum)}, got {value!r}.")

    @property
    def whole(self) -> bool:
        """True for values that count something."""
        return self.step >= 1


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


BOUNDS: dict[str, Bound] = {
    "temperature": Bound("Temperature", 0.0, 2.0, 0.6, 0.05, "0 is greedy", "0 is greedy; higher is more varied"),
    "top_p": Bound("Top-p", 0.01, 1.0, 0.9, 0.01, "1 is off", "keep the likeliest tokens up to this probability; 1 is off"),
    "top_k": Bound("Top-k", 0, 200, 0, 1, "0 is off", "keep this many of the likeliest tokens; 0 is off"),
    "max_tokens": Bound("Max tokens", 1, 4096, 256, 1, "at most", "the answer ends here at the latest"),
    "seed": Bound(
        "Seed", 0, 2**32 - 1, 0, 1, "same seed, same answer; empty for a new one", "the same seed draws the same answer"
    ),
}
MAX_STOP_STRINGS = 4
MAX_STOP_LENGTH = 64


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen and when to end. Checks itself; raises BadRequest naming the first value out of bounds.

    ignore_eos: the end that the model itself says is a token like any other; the answer goes on until something else ends it.
    """

    temperature: float = BOUNDS["temperature"].default
    top_p: float = BOUNDS["top_p"].default
    top_k: int = int(BOUNDS["top_k"].default)
    max_tokens: int = int(BOUNDS["max_tokens"].default)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "top_k", "max_tokens"):
            BOUNDS[name].check(name, getattr(self, name))
            if BOUNDS[name].whole:
                object.__setattr__(self, name, int(getattr(self, name)))  # 5.0 from a slider or from JSON
        if self.seed is not None:
            BOUNDS["seed"].check("seed", self.seed)
            object.__setattr__(self, "seed", int(self.seed))
        if not isinstance(self.ignore_eos, bool):
            raise BadRequest(f"ignore_eos must be true or false, got {self.ignore_eos!r}.")
        if isinstance(self.stop, str) or not all(isinstance(s, str) for s in self.stop):
            raise BadRequest(f"stop must be a list of strings, got {self.stop!r}.")
        if len(self.stop) > MAX_STOP_STRINGS or not all(1 <= len(s) <= MAX_STOP_LENGTH for s in self.stop):
            raise BadRequest(
                f"stop takes up to {MAX_STOP_STRINGS} strings of 1 to {MAX_STOP_LENGTH} characters, got {self.stop!r}."
            )

    @property
    def greedy(self) -> bool:
        """True where no random draw is needed: top_k 1, or a temperature so low that dividing by it would overflow."""
        return self.temperature < GREEDY_BELOW or self.top_k == 1

    def top_k_within(self, limit: int | None) -> int:
        """top_k for a backend that can choose among `limit` candidates at most: a larger one, and 0 for all, become the limit.
        None is no limit."""
        return self.top_k if limit is None or 0 < self.top_k <= limit else limit

    def as_greedy(self) -> SamplingParams:
        """The same request with the likeliest token taken at every step."""
        return replace(self, temperature=0.0)


@dataclass(frozen=True)
class Preset:
    """A named set of values for the sliders."""

    name: str
    temperature: float
    top_p: float
    top_k: int


PRESETS: tuple[Preset, ...] = (
    Preset("Balanced", 0.6, 0.9, 0),
    Preset("Focused", 0.3, 0.8, 20),
    Preset("Creative", 1.0, 0.95, 0),
    Preset("Wild", 1.6, 1.0, 0),
    Preset("Tutorial: story", 1.0, 1.0, 1),
    Preset("Tutorial: describe", 0.9, 0.5, 10),
)


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
