"""One generated token in detail: the probability of every candidate after temperature, top_k and top_p.

Reads a TokenTrace; this module generates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mllama_demo.engine.token_sampler import TokenTrace, WholeVocabulary
from mllama_demo.errors import BadRequest
from mllama_demo.explore.results import Cell, Token
from mllama_demo.sampling import SamplingParams

NO_TRACE = "This answer has no record of its candidates: the backend tells no probabilities."
CutBy = Literal["top_k", "top_p", "greedy"]


@dataclass(frozen=True)
class Candidate:
    """One recorded candidate with its probability at each stage. The probability is 0 from the stage on that cut it.

    Attributes:
        raw: the model's probability, at temperature 1.
        final: the probability that the sampler used.
        draw_interval: the part of [0, 1) in which a random number chooses this candidate; None for a cut candidate.
    """

    token_id: int
    logit: float
    raw: float
    after_temperature: float
    after_top_k: float
    final: float
    cut_by: CutBy | None
    draw_interval: tuple[float, float] | None


@dataclass(frozen=True)
class Unrecorded:
    """The total probability of all candidates that are not recorded, at each stage."""

    raw: float
    after_temperature: float
    after_top_k: float
    final: float


@dataclass(frozen=True)
class FilterSteps:
    """How one token was chosen.

    Attributes:
        candidates: the recorded candidates, the likeliest first.
        unrecorded: the probability of all others.
        chosen: id of the chosen token.
        chosen_index: its index in candidates, None when it is not recorded.
        draw: the random number; None for a greedy choice and for a forced token.
        forced: whether a user chose the token, see forced_token.
        candidates_left: how many of the whole vocabulary were left after the filters; of the sent candidates where a server
            reported them.
        exact: False where the record does not contain the mass of the unrecorded candidates, which then counts as 0.
    """

    candidates: tuple[Candidate, ...]
    unrecorded: Unrecorded
    chosen: int
    chosen_index: int | None
    draw: float | None
    forced: bool
    candidates_left: int
    exact: bool


def filter_steps(trace: TokenTrace, params: SamplingParams) -> FilterSteps:
    """Computes the stages of one token.

    Args:
        trace: the record of the token.
        params: the values that the token was sampled with.
    """
    raw = trace.raw_probabilities()
    stages, exact = _greedy_stages(raw) if params.greedy else _stages(trace, params)
    cuts = _cuts(trace, params)
    ends = np.cumsum(stages[-1])
    candidates = tuple(
        Candidate(
            token_id,
            trace.logits[i],
            float(raw[i]),
            *(float(stage[i]) for stage in stages),
            cut_by=cuts[i],
            draw_interval=(float(ends[i] - stages[-1][i]), float(ends[i])) if cuts[i] is None else None,
        )
        for i, token_id in enumerate(trace.token_ids)
    )
    unrecorded = Unrecorded(trace.unrecorded_mass(), *(max(0.0, 1.0 - float(stage.sum())) for stage in stages))
    index = trace.token_ids.index(trace.chosen) if trace.chosen in trace.token_ids else None
    forced = is_forced(trace, params)
    exact = exact and not trace.reported
    return FilterSteps(candidates, unrecorded, trace.chosen, index, trace.draw, forced, trace.after_top_p, exact)


Stages = tuple[np.ndarray, np.ndarray, np.ndarray]  # [m] each, after temperature, top_k and top_p


def _greedy_stages(raw: np.ndarray) -> tuple[Stages, bool]:
    only = np.zeros(len(raw))
    only[0] = 1.0
    return (raw, only, only), True


def _stages(trace: TokenTrace, params: SamplingParams) -> tuple[Stages, bool]:
    scaled = np.asarray(trace.logits) / params.temperature
    masses = trace.whole.log_masses if trace.whole is not None else None
    exact = masses is not None
    if masses is None:
        masses = tuple(float(np.logaddexp.reduce(scaled[:left])) for left in (None, trace.after_top_k, trace.after_top_p))
        if params.temperature == 1.0:  # log_mass is the whole mass at temperature 1
            masses = (trace.log_mass, trace.log_mass if params.top_k == 0 else masses[1], masses[2])
    first, second, third = (np.exp(scaled - mass) for mass in masses)
    second[trace.after_top_k :] = 0.0
    third[trace.after_top_p :] = 0.0
    return (first, second, third), exact or trace.after_top_p <= len(scaled)


def _cuts(trace: TokenTrace, params: SamplingParams) -> list[CutBy | None]:
    count = len(trace.token_ids)
    if params.greedy:
        others: list[CutBy | None] = ["top_k" if params.top_k == 1 else "greedy"]
        return [None, *others * (count - 1)]
    cuts: list[CutBy | None] = [None] * count
    for i in range(trace.after_top_p, count):
        cuts[i] = "top_p" if i < trace.after_top_k else "top_k"
    return cuts


def is_forced(trace: TokenTrace, params: SamplingParams) -> bool:
    """Whether a user chose the token (see forced_token), and not the sampler. params: what the answer was sampled with."""
    return trace.draw is None and not trace.reported and (not params.greedy or trace.chosen != trace.token_ids[0])


def forced_token(cell: Cell, position: int, token_id: int) -> Token:
    """The cell's token at `position`, replaced by the candidate token_id. The text of the result is empty.

    Raises:
        BadRequest: token_id is not among the recorded candidates of the position.
    """
    if not 0 <= position < len(cell.tokens):
        raise BadRequest(f"The answer has {len(cell.tokens)} tokens, so there is no token {position + 1} to choose another for.")
    trace = cell.tokens[position].trace
    if trace is None:
        raise BadRequest(NO_TRACE)
    if token_id not in trace.token_ids:
        raise BadRequest(f"Token {token_id} is not among the {len(trace.token_ids)} recorded candidates of this place.")
    rank = trace.token_ids.index(token_id)
    whole = None if trace.whole is None else WholeVocabulary(trace.whole.size, rank, trace.whole.log_masses)
    chosen = replace(trace, chosen=token_id, chosen_logit=trace.logits[rank], draw=None, whole=whole)
    return Token(id=token_id, text="", trace=chosen)


def entropy(probabilities: Sequence[float] | np.ndarray, rest: float = 0.0) -> float:
    """Shannon's entropy in bits.

    Args:
        probabilities: of single outcomes.
        rest: the probability of everything else, which counts as one outcome; the result is then a lower bound.
    """
    weights = np.asarray([*probabilities, rest], dtype=np.float64)
    weights = weights[weights > 0]
    return max(0.0, float(-(weights * np.log2(weights)).sum()))
