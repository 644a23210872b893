"""Samples the next token of each row of a batch of logits, on the device of the logits, without sorting the vocabulary.

The results are those of token_sampler.filter_logits and pick on the whole row: the same token for the same random number, the
same rank, the same counts. A row is sampled in up to three steps:

1. A bound finds the likeliest few hundred tokens, the head, which is put in order. It decides alone where top_k is on.
2. Without top_k, one sum of exp(logit / temperature) over the row gives probabilities. The head decides if it holds top_p.
3. Otherwise GroupedTokens sorts the small group of tokens in which top_p or the random number falls.

Sums are in float64. A GPU sends the head and such groups to the host, not the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mllama_demo.engine.token_groups import GroupedTokens, SortedTokens, Tokens, indices
from mllama_demo.engine.token_sampler import (
    NO_TOKEN,
    NOT_FINITE,
    RECORDED_CANDIDATES,
    TokenSampler,
    TokenTrace,
    WholeVocabulary,
    apply_temperature,
    descending,
    keep_top_k,
    keep_top_p,
    pick,
)
from mllama_demo.sampling import SamplingParams

HEAD = 256  # the head has at least as many tokens: more than the largest top_k, and than a trace records
LONGEST_HEAD = 4096  # where top_k is off; many equal logits could make it longer
SORTED_WHOLE = 2048  # a row of up to this many tokens is its own head; a larger one is searched in as many blocks
LOG2_E = math.log2(math.e)
NEGLIGIBLE = 44.0  # exp(-44) is 2^-63


def sample_rows(samplers: Sequence[TokenSampler], logits: torch.Tensor) -> list[tuple[int, TokenTrace | None]]:
    """Samples a token id from each row of logits [rows, vocabulary] with the sampler of the row, and a trace if it records one.

    The logits are float32; float64 is as exact, and slower. A row of which a logit is NaN, or the largest is infinite, has
    NO_TOKEN, and its sampler draws no random number.

    Raises:
        FloatingPointError: All rows are so.
    """
    likeliest_only = [sampler.params.greedy and not sampler.trace for sampler in samplers]
    blocks = None if all(likeliest_only) else _largest_of_blocks(logits)
    tops = (logits.amax(1) if blocks is None else _largest(logits, blocks)).tolist()  # NaN if a logit is NaN
    finite = [math.isfinite(top) for top in tops]
    if not any(finite):
        raise FloatingPointError(NOT_FINITE)
    bounds = [-math.inf] * len(tops) if blocks is None else _head_bounds(blocks)
    sampled: list[tuple[int, TokenTrace | None]] = []
    for at, (sampler, row) in enumerate(zip(samplers, logits, strict=True)):
        if not finite[at]:
            sampled.append((NO_TOKEN, None))
        elif likeliest_only[at]:
            sampled.append((_argmax(row), None))
        else:
            sampled.append(_sample(sampler, row, tops[at], _head(row, bounds[at], sampler.params.top_k)))
    return sampled


def _argmax(row: torch.Tensor) -> int:
    return int(np.argmax(row.numpy()) if row.device.type == "cpu" else row.argmax())


# --- the head ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Head:
    """The first tokens of a row in the order of filter_logits.

    Attributes:
        ids: [tokens].
        logits: [tokens] float64.
        whole: The head is the whole row.
    """

    ids: np.ndarray
    logits: np.ndarray
    whole: bool


def _largest_of_blocks(logits: torch.Tensor) -> torch.Tensor | None:
    """Returns the largest logit of each block [rows, SORTED_WHOLE]; None if a row is its own head.

    Block i has the tokens i, i + SORTED_WHOLE and so on. The tokens after the last whole block are in none.
    """
    size, blocks = logits.shape[1], SORTED_WHOLE
    if size <= blocks:
        return None
    length = size // blocks
    return logits[:, : blocks * length].unflatten(1, (length, blocks)).amax(1)


def _largest(logits: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Returns the largest logit of each row [rows] of logits, whose _largest_of_blocks are `blocks`."""
    largest, in_blocks = blocks.amax(1), logits.shape[1] // SORTED_WHOLE * SORTED_WHOLE
    return largest if in_blocks == logits.shape[1] else torch.maximum(largest, logits[:, in_blocks:].amax(1))


def _head_bounds(blocks: torch.Tensor) -> list[float]:
    """Returns for each row a bound that at least HEAD of its logits reach, and not many more.

    The largest logits of HEAD blocks of the row are HEAD different tokens.
    """
    return blocks.topk(HEAD, 1).values[:, -1].tolist()


def _head(row: torch.Tensor, bound: float, top_k: int) -> _Head:
    """Returns the head of row [vocabulary]: with top_k, all tokens that it leaves."""
    if len(row) <= SORTED_WHOLE:
        logits = row.cpu().numpy()
        order = descending(logits)
        return _Head(order, logits[order].astype(np.float64), whole=True)
    ids = indices(row, lambda logits: logits >= bound)
    if len(ids) > LONGEST_HEAD and not top_k:  # many equal logits
        above, equal = indices(row, lambda logits: logits > bound), indices(row, lambda logits: logits == bound)
        ids = torch.cat([above, equal[:HEAD]])
    logits = row[ids].cpu().numpy()
    order = descending(logits)
    return _Head(ids.cpu().numpy()[order], logits[order].astype(np.float64), whole=False)


# --- a row ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """What was sampled from a row.

    Attributes:
        rank: How many tokens come before the chosen one.
        after_top_k, after_top_p: How many tokens are left after the filter.
        masses: Sums of exp((logit - largest logit) / temperature) over the tokens left after temperature, top_k and top_p. The
            first is right only where a trace records it.
    """

    chosen: int
    rank: int
    after_top_k: int
    after_top_p: int
    masses: tuple[float, float, float]


def _sample(sampler: TokenSampler, row: torch.Tensor, top: float, head: _Head) -> tuple[int, TokenTrace | None]:
    """Samples from row [vocabulary], whose largest logit is `top`."""
    params, draw, step = sampler.params, None, None
    chosen, mass = int(head.ids[0]), math.nan
    below = _below_top(row, top) if sampler.trace and not head.whole else None
    if sampler.trace and (params.greedy or params.temperature != 1):
        mass = float(np.exp(head.logits - top).sum() if below is None else (below * LOG2_E).exp2_().sum())
    if not params.greedy:
        draw = sampler.draw()
        step = _draw(row, top, below, head, params, draw, ranks=sampler.trace)
        chosen = step.chosen
        mass = step.masses[0] if params.temperature == 1 else mass
    if not sampler.trace:
        return chosen, None
    finite = int(np.isfinite(head.logits[:RECORDED_CANDIDATES]).sum())
    return chosen, TokenTrace(
        token_ids=tuple(head.ids[:finite].tolist()),
        logits=tuple(head.logits[:finite].tolist()),
        log_mass=top + math.log(mass),
        chosen=chosen,
        chosen_logit=float(row[chosen]),
        draw=draw,
        after_top_k=step.after_top_k if step else 1,
        after_top_p=step.after_top_p if step else 1,
        whole=WholeVocabulary(len(row), step.rank if step else 0, _log_masses(step, top / params.temperature) if step else None),
    )


def _draw(
    row: torch.Tensor,
    top: float,
    below: torch.Tensor | None,
    head: _Head,
    params: SamplingParams,
    draw: float,
    *,
    ranks: bool,
) -> _Step:
    """Filters row [vocabulary] and picks the token of the random number `draw`.

    Args:
        ranks: The rank and the counts of the step are asked for.
        below: _below_top(row, top) if a trace needs the mass of a row that is not its own head. It is overwritten.
    """
    scaled = apply_temperature(head.logits, params.temperature)
    weights = np.exp(scaled - scaled[0])
    after_k = keep_top_k(scaled, params.top_k)
    all_left = head.whole or params.top_k > 0  # the head has all tokens that top_k leaves
    row_weights = None
    if not head.whole and (below is not None or not all_left):
        scale = LOG2_E / params.temperature
        row_weights = _powers(row, top, scale) if below is None else below.mul_(scale).exp2_()
    total = float(weights.sum() if row_weights is None else row_weights.sum())
    left = float(weights[:after_k].sum()) if all_left else total
    probabilities = weights[:after_k] / left
    kept = keep_top_p(probabilities, params.top_p)
    if row_weights is None or all_left or kept < after_k:
        nucleus = probabilities[:kept]
        rank = pick(nucleus / nucleus.sum(), draw)
        after_k = after_k if all_left else len(row)
        return _Step(int(head.ids[rank]), rank, after_k, kept, (total, left, float(weights[:kept].sum())))

    def in_order() -> SortedTokens | GroupedTokens:
        widest = NEGLIGIBLE * params.temperature
        return Tokens(row, row_weights, total, widest, largest=top, ranks=ranks).in_order()

    kept, nucleus_mass, tokens = len(row), 1.0, None
    if params.top_p < 1:
        tokens = in_order()
        kept, nucleus_mass = tokens.nucleus(params.top_p)
    rank = int(probabilities.cumsum().searchsorted(draw * nucleus_mass, side="right"))
    if rank < len(head.ids):
        chosen = int(head.ids[rank])
    else:
        tokens = tokens or in_order()
        chosen, rank = tokens.pick(draw * (nucleus_mass if params.top_p < 1 else tokens.sum))
    return _Step(chosen, rank, len(row), kept, (total, total, total * nucleus_mass))


def _below_top(row: torch.Tensor, top: float) -> torch.Tensor:
    """Returns row - top in float64."""
    return row.to(torch.float64, copy=True).sub_(top)


def _powers(row: torch.Tensor, top: float, scale: float) -> torch.Tensor:
    """Returns 2 ** ((row - top) * scale) in float64, in as few passes as possible."""
    values = row.to(torch.float64, copy=True)
    return torch.add(values.new_tensor(-top * scale), values, alpha=scale, out=values).exp2_()


def _log_masses(step: _Step, top: float) -> tuple[float, float, float]:
    temperature, top_k, top_p = (top + math.log(mass) for mass in step.masses)
    return temperature, top_k, top_p
