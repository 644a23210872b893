"""Checks that every row is sampled by the values of its own request.

All slots are led along one text, each with other values. A drawn token must be among those that its values leave of the
reference's candidates. A row without filters must not be answered as a greedy one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from mllama_demo.engine.token_sampler import keep_top_p
from mllama_demo.sampling import SamplingParams
from mllama_demo.verify.cases import Case
from mllama_demo.verify.comparison import Comparer
from mllama_demo.verify.reference import Step

# The values of the rows, which rotate over the slots. At temperature 2 many tokens are likely; at temperature 1 the probabilities
# of the reference are exact.
ROWS = {
    "greedy": SamplingParams(temperature=0.0, ignore_eos=True),
    "temperature 2 alone": SamplingParams(temperature=2.0, top_p=1.0, top_k=0, seed=1, ignore_eos=True),
    "temperature 2 and top_k 3": SamplingParams(temperature=2.0, top_p=1.0, top_k=3, seed=2, ignore_eos=True),
    "top_p 0.5": SamplingParams(temperature=1.0, top_p=0.5, top_k=0, seed=3, ignore_eos=True),
}
FREE = "temperature 2 alone"
_BY_CHANCE = 1e-3  # a draw that is less likely than this is taken for a fault


@dataclass
class Nucleus:
    """The draws with top_p in which the token that reaches top_p is not the likeliest one.

    Attributes:
        expected: How often that token should be drawn.
        drawn: How often it was drawn.
    """

    expected: float = 0.0
    drawn: int = 0


def sample_by_row(comparer: Comparer, case: Case, *, varies: bool) -> Nucleus:
    """Draws with every arrangement of ROWS over the slots, and adds one comparison for each row.

    Args:
        varies: The engine draws other random numbers each time.
    """
    count, names = comparer.engine.slots, list(ROWS)
    steps = comparer.reference.of(case).steps
    nucleus = Nucleus()
    worst = dict.fromkeys(names, 0.0)
    certain = dict.fromkeys(names, 1.0)  # how likely it is, at least, that all draws of a row are the likeliest token
    moved = dict.fromkeys(names, False)
    for shift in range(len(names)):
        chosen = [names[(slot + shift) % len(names)] for slot in range(count)]
        with comparer.attempt("sampling", ", ".join(chosen)) as slots:
            for slot, name in enumerate(chosen):
                slots.start(slot, replace(case, request=replace(case.request, sampling=ROWS[name])))
            slots.finish()
            for slot, name in enumerate(chosen):
                for sampled, step in zip(slots.rows[slot].made, steps, strict=True):
                    worst[name] = max(worst[name], _beyond(sampled.token_id, step, ROWS[name], comparer.tolerance))
                    certain[name] *= float(_probabilities(step, ROWS[name])[0])
                    moved[name] |= sampled.token_id != step.token_ids[0]
                    if ROWS[name].top_p < 1:
                        _count(nucleus, sampled.token_id, step, ROWS[name])
    for name in names:
        comparer.add(
            "sampling", name, worst[name], "" if worst[name] <= comparer.tolerance else "a token that its values exclude"
        )
    if varies and certain[FREE] < _BY_CHANCE:
        note = "" if moved[FREE] else "always the likeliest token, as if the values of another row counted"
        comparer.add("sampling", f"{FREE}: not always the likeliest token", 0.0 if moved[FREE] else math.inf, note)
    return nucleus


def _beyond(token: int, step: Step, params: SamplingParams, tolerance: float) -> float:
    """By how much the token's logit is below the smallest that the values leave; 0 for a token that they leave.

    The engine's logits may differ by the tolerance, and with them the odds of any set of tokens by exp(2 × tolerance).
    """
    left = len(step.logits) + 1
    if params.greedy:
        left = 1
    elif params.top_k:
        left = params.top_k
    elif params.top_p < 1:
        odds = params.top_p / (1 - params.top_p) * math.exp(min(2 * tolerance, 50))
        left = keep_top_p(np.exp(np.asarray(step.logits) - step.log_mass), odds / (1 + odds))
    if left > len(step.logits):
        return 0.0  # more tokens are left than the reference has recorded
    logits = dict(zip(step.token_ids, step.logits, strict=True))
    return max(0.0, step.logits[left - 1] - logits.get(token, -math.inf))


def _count(nucleus: Nucleus, token: int, step: Step, params: SamplingParams) -> None:
    probabilities = _probabilities(step, params)
    left = keep_top_p(probabilities, params.top_p)
    if 1 < left < len(probabilities):
        nucleus.expected += float(probabilities[left - 1] / probabilities[:left].sum())
        nucleus.drawn += token == step.token_ids[left - 1]


def _probabilities(step: Step, params: SamplingParams) -> np.ndarray:
    """The probabilities of the recorded candidates among themselves."""
    scaled = np.asarray(step.logits) / (1.0 if params.greedy else params.temperature)
    weights = np.exp(scaled - scaled[0])
    return weights / weights.sum()
