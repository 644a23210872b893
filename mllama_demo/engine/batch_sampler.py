"""Samples the next token of each row of a batch of logits, on the device of the logits, without sorting the vocabulary.

The results are those of token_sampler.filter_logits and pick on the whole row: the same token for the same random number, the
same rank, the same counts. Bfloat16 rows on a CPU are sampled by counted_tokens. Others are sampled in up to three steps:

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

from mllama_demo.engine.counted_tokens import CountedTokens, Drawn, likeliest
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

    The logits may have any floating-point type. bfloat16 is the fastest on a CPU, float64 the slowest. A row of which a logit is
    NaN, or the largest is infinite, has NO_TOKEN, and its sampler draws no random number.

    Raises:
        FloatingPointError: All rows are so.
    """
    if logits.dtype == torch.bfloat16 and logits.device.type == "cpu" and logits.shape[1] > SORTED_WHOLE:
        sampled = _sample_bfloat16(samplers, logits)
    else:
        sampled = _sample_floats(samplers, logits if logits.dtype.itemsize >= 4 else logits.float())
    if all(token == NO_TOKEN for token, _ in sampled):
        raise FloatingPointError(NOT_FINITE)
    return sampled


def _sample_bfloat16(samplers: Sequence[TokenSampler], logits: torch.Tensor) -> list[tuple[int, TokenTrace | None]]:
    """Samples from logits [rows, vocabulary] bfloat16 on a CPU."""
    by_head = [at for at, sampler in enumerate(samplers) if sampler.params.top_k and not sampler.params.greedy]
    sampled = {}
    if by_head:  # it is faster than counting
        sampled = dict(zip(by_head, _sample_floats([samplers[at] for at in by_head], logits[by_head].float()), strict=True))
    return [sampled[at] if at in sampled else _sample_counted(sampler, logits[at]) for at, sampler in enumerate(samplers)]


def _sample_floats(samplers: Sequence[TokenSampler], logits: torch.Tensor) -> list[tuple[int, TokenTrace | None]]:
    """Samples from logits [rows, vocabulary] float32 or float64."""
    likeliest_only = [sampler.params.greedy and not sampler.trace for sampler in samplers]
    blocks = None if all(likeliest_only) else _largest_of_blocks(logits)
    tops = (logits.amax(1) if blocks is None else _largest(logits, blocks)).tolist()  # NaN if a logit is NaN
    bounds = [-math.inf] * len(tops) if blocks is None else _head_bounds(blocks)
    sampled: list[tuple[int, TokenTrace | None]] = []
    for at, (sampler, row) in enumerate(zip(samplers, logits, strict=True)):
        if not math.isfinite(tops[at]):
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
    return chosen, _trace(params, row, head.ids, head.logits, mass, chosen, draw, step)


def _sample_counted(sampler: TokenSampler, row: torch.Tensor) -> tuple[int, TokenTrace | None]:
    """Samples from row [vocabulary] bfloat16 on a CPU."""
    params, draw, drawn = sampler.params, None, None
    if params.greedy and not sampler.trace:
        return likeliest(row), None
    tokens = CountedTokens(row)
    if not tokens.finite:
        return NO_TOKEN, None
    if not params.greedy:
        draw = sampler.draw()
        drawn = tokens.draw(params, draw)
    if drawn and not sampler.trace:
        return drawn.chosen, None
    ids, logits = tokens.first(RECORDED_CANDIDATES)
    chosen = drawn.chosen if drawn else int(ids[0])
    return chosen, _trace(params, row, ids, logits, tokens.mass(), chosen, draw, drawn)


def _trace(
    params: SamplingParams,
    row: torch.Tensor,
    ids: np.ndarray,
    logits: np.ndarray,
    mass: float,
    chosen: int,
    draw: float | None,
    drawn: Drawn | None,
) -> TokenTrace:
    """Makes the record of a step.

    Args:
        ids, logits: The likeliest tokens of row [vocabulary], descending; more than are recorded, or all.
        mass: The sum of exp(logit - largest logit) over the row.
        draw, drawn: None for greedy.
    """
    top, finite = float(logits[0]), int(np.isfinite(logits[:RECORDED_CANDIDATES]).sum())
    return TokenTrace(
        token_ids=tuple(ids[:finite].tolist()),
        logits=tuple(logits[:finite].tolist()),
        log_mass=top + math.log(mass),
        chosen=chosen,
        chosen_logit=float(row[chosen]),
        draw=draw,
        after_top_k=drawn.after_top_k if drawn else 1,
        after_top_p=drawn.after_top_p if drawn else 1,
        whole=WholeVocabulary(
            len(row), drawn.rank if drawn else 0, _log_masses(drawn, top / params.temperature) if drawn else None
        ),
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
) -> Drawn:
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
        return Drawn(int(head.ids[rank]), rank, after_k, kept, (total, left, float(weights[:kept].sum())))

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
    return Drawn(chosen, rank, len(row), kept, (total, total, total * nucleus_mass))


def _below_top(row: torch.Tensor, top: float) -> torch.Tensor:
    """Returns row - top in float64."""
    return row.to(torch.float64, copy=True).sub_(top)


def _powers(row: torch.Tensor, top: float, scale: float) -> torch.Tensor:
    """Returns 2 ** ((row - top) * scale) in float64, in as few passes as possible."""
    values = row.to(torch.float64, copy=True)
    return torch.add(values.new_tensor(-top * scale), values, alpha=scale, out=values).exp2_()


def _log_masses(drawn: Drawn, top: float) -> tuple[float, float, float]:
    temperature, top_k, top_p = (top + math.log(mass) for mass in drawn.masses)
    return temperature, top_k, top_p
