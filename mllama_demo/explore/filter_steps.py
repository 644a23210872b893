"""One token taken apart: every candidate on its way through temperature, top_k and top_p, and the number that chose.

Reads a TokenTrace; nothing is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mllama_demo.errors import BadRequest
from mllama_demo.explore.results import Cell, Token
from mllama_demo.sampling import SamplingParams, TokenTrace, WholeVocabulary

CutBy = Literal["top_k", "top_p", "greedy"]


@dataclass(frozen=True)
class Candidate:
    """One recorded candidate. Its probability at each stage; 0 from the stage on that cut it.

    raw: as the model gave it, at temperature 1. final: what it was drawn with. share: the part of [0, 1) in which a random
    number chooses it, None where none does.
    """

    token_id: int
    logit: float
    raw: float
    after_temperature: float
    after_top_k: float
    final: float
    cut_by: CutBy | None
    share: tuple[float, float] | None


@dataclass(frozen=True)
class Outside:
    """The probability of all candidates together that are not recorded, at each stage."""

    raw: float
    after_temperature: float
    after_top_k: float
    final: float


@dataclass(frozen=True)
class Steps:
    """candidates: likeliest first. chosen: token id; chosen_index: its place among the candidates, None when it is outside.

    draw: the random number, None for greedy and for a token chosen by hand; by_hand tells them apart. kept: how many of the whole
    vocabulary were left to choose from.
    exact: False where the record does not tell the mass outside of it, which then counts as nothing.
    """

    candidates: tuple[Candidate, ...]
    outside: Outside
    chosen: int
    chosen_index: int | None
    draw: float | None
    by_hand: bool
    kept: int
    exact: bool


def steps_of(trace: TokenTrace, params: SamplingParams) -> Steps:
    """params: those that the token was chosen with."""
    raw = trace.raw_probabilities()
    stages, exact = _greedy(trace, raw) if params.greedy else _stages(trace, params)
    cuts = _cuts(trace, params)
    ends = np.cumsum(stages[-1])
    candidates = tuple(
        Candidate(
            token_id,
            trace.logits[i],
            float(raw[i]),
            *(float(stage[i]) for stage in stages),
            cut_by=cuts[i],
            share=(float(ends[i] - stages[-1][i]), float(ends[i])) if cuts[i] is None else None,
        )
        for i, token_id in enumerate(trace.token_ids)
    )
    outside = Outside(trace.unrecorded_mass(), *(max(0.0, 1.0 - float(stage.sum())) for stage in stages))
    index = trace.token_ids.index(trace.chosen) if trace.chosen in trace.token_ids else None
    by_hand = chosen_by_hand(trace, params)
    return Steps(candidates, outside, trace.chosen, index, trace.draw, by_hand, trace.after_top_p, exact)


Stages = tuple[np.ndarray, np.ndarray, np.ndarray]  # [m] each, after temperature, top_k and top_p


def _greedy(trace: TokenTrace, raw: np.ndarray) -> tuple[Stages, bool]:
    only = np.zeros(len(raw))
    only[0] = 1.0
    return (raw, only, only), True


def _stages(trace: TokenTrace, params: SamplingParams) -> tuple[Stages, bool]:
    scaled = np.asarray(trace.logits) / params.temperature
    masses = trace.whole.log_masses if trace.whole is not None else None
    exact = masses is not None
    if masses is None:
        masses = tuple(float(np.logaddexp.reduce(scaled[:left])) for left in (None, trace.after_top_k, trace.after_top_p))
        if params.temperature == 1.0:  # then the record does tell it
            masses = (trace.log_mass, trace.log_mass if params.top_k == 0 else masses[1], masses[2])
    first, second, third = (np.exp(scaled - mass) for mass in masses)
    second[trace.after_top_k :] = 0.0
    third[trace.after_top_p :] = 0.0
    return (first, second, third), exact or trace.after_top_p <= len(scaled)


def _cuts(trace: TokenTrace, params: SamplingParams) -> list[CutBy | None]:
    count = len(trace.token_ids)
    if params.greedy:
        beaten: list[CutBy | None] = ["top_k" if params.top_k == 1 else "greedy"]
        return [None, *beaten * (count - 1)]
    cut: list[CutBy | None] = [None] * count
    for i in range(trace.after_top_p, count):
        cut[i] = "top_p" if i < trace.after_top_k else "top_k"
    return cut


def chosen_by_hand(trace: TokenTrace, params: SamplingParams) -> bool:
    """Whether somebody chose the token, see with_choice, and not a random number or greed. params: as steps_of has them."""
    return trace.draw is None and (not params.greedy or trace.chosen != trace.token_ids[0])


def with_choice(cell: Cell, position: int, token_id: int) -> Token:
    """The cell's token at `position` as if token_id had been chosen there by hand. Its text is left empty.

    Raises BadRequest unless token_id is among the recorded candidates of that place.
    """
    if not 0 <= position < len(cell.tokens):
        raise BadRequest(f"The answer has {len(cell.tokens)} tokens, so there is no token {position + 1} to choose another for.")
    trace = cell.tokens[position].trace
    if trace is None:
        raise BadRequest("This answer has no record of its candidates: the backend tells no probabilities.")
    if token_id not in trace.token_ids:
        raise BadRequest(f"Token {token_id} is not among the {len(trace.token_ids)} recorded candidates of this place.")
    rank = trace.token_ids.index(token_id)
    whole = trace.whole
    if whole is not None:
        whole = WholeVocabulary(whole.size, rank, whole.log_masses)
    chosen = replace(trace, chosen=token_id, chosen_logit=trace.logits[rank], draw=None, whole=whole)
    return Token(id=token_id, text="", trace=chosen)


def entropy(probabilities: Sequence[float] | np.ndarray, rest: float = 0.0) -> float:
    """Shannon's entropy in bits. rest: the probability of everything else, counted as one outcome, which makes the result a
    lower bound where there is any."""
    weights = np.asarray([*probabilities, rest], dtype=np.float64)
    weights = weights[weights > 0]
    return max(0.0, float(-(weights * np.log2(weights)).sum()))
