"""The JSON objects that the Explore page displays. This module knows no HTTP and generates nothing."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from mllama_demo.chat.rendering import render_answer
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.explore.compare import DivergentToken, compare
from mllama_demo.explore.filter_steps import NO_TRACE, Candidate, entropy, filter_steps
from mllama_demo.explore.grid import AXES, Axis
from mllama_demo.explore.measures import MEASURES, group_cells, heat_map, mean_entropy
from mllama_demo.explore.report import OUTCOMES
from mllama_demo.explore.results import Branch, Cell, Run, Token
from mllama_demo.explore.web.tour import DIVERGENCE_CAUSES
from mllama_demo.explore.whatif import CandidatesWhatIf, candidates_what_if, what_if
from mllama_demo.runtime.words import counted
from mllama_demo.sampling import SamplingParams

View = dict[str, Any]
TokenNames = Tokenizer | TokenEstimate
MAX_CANDIDATES = 24


def run_view(run: Run, names: TokenNames, shared_as: str | None = None) -> View:
    """The grid, its branches and its measures, without single tokens.

    shared_as: the token of the link that shows the run; the page then uses the token in place of the id, and changes nothing.
    """
    axes = run.grid.grouping_axes()
    return {
        "id": shared_as or run.id,
        "shared": shared_as is not None,
        "tour": run.tour,
        "title": run.title,
        "created": run.created.isoformat(),
        "model": run.model,
        "device": run.device,
        "repeatable": run.repeatable,
        "prompt": run.grid.prompt,
        "image": None if run.image is None else run.image.name,
        "history": [turn.model_dump() for turn in run.grid.history],
        "max_tokens": run.grid.max_tokens,
        "values": {axis: list(getattr(run.grid, axis)) for axis in AXES},
        "varied": list(run.grid.varied_axes()),
        "notes": list(run.grid.notes()),
        "cells": [cell_view(run, index) for index in range(len(run.cells))],
        "branches": [branch_view(run, branch, names) for branch in run.branches],
        "measures": [{"name": m.name, "label": m.label, "help": m.help} for m in MEASURES.values()],
        "grouped_by": list(axes),
        "groups": [
            {
                "values": {axis: f"{value:g}" for axis, value in group.values.items()},
                "cells": len(group.cells),
                "missing": group.missing,
                "texts": [measure.text(group.measure(name)) for name, measure in MEASURES.items()],
            }
            for group in group_cells(run, axes)
        ],
    }


def cell_view(run: Run, index: int) -> View:
    """One answer of a cell or of a branch. index: see Run.answer."""
    cell = run.answer(index)
    bits = mean_entropy(cell)
    details = [counted(len(cell.tokens), "token")]
    details += [] if bits is None else [f"{bits:.2f} bits"]
    if surplus := run.surplus(index):
        asked = run.grid.max_tokens
        details.append(f"{surplus} more than the {asked} that were asked for; the answer is kept as the server sent it")
    return {
        "index": index,
        "name": run.name(index),
        **{axis: getattr(cell, axis) for axis in AXES},
        "text": cell.text,
        "html": render_answer(cell.text) if cell.text else "",
        "outcome": cell.outcome,
        "outcome_text": OUTCOMES[cell.outcome],
        "error": cell.error,
        "details": " · ".join(details),
        "has_traces": cell.traces is not None,
    }


def branch_view(run: Run, branch: Branch, names: TokenNames) -> View:
    """One branch. shared: the number of characters that its text shares with its parent."""
    shared = branch.cell.tokens[: branch.position]
    return {
        **cell_view(run, run.index_of(branch)),
        "parent": branch.parent,
        "parent_name": run.name(branch.parent),
        "position": branch.position,
        "token": token_text(names, branch.token_id),
        "shared": sum(len(token.text) for token in shared),
    }


def tokens_view(cell: Cell) -> list[View]:
    """Each token with its raw probability and the entropy of the model's distribution in bits; None without a record."""
    return [
        {
            "text": token.text,
            "raw": None if trace is None else min(1.0, math.exp(trace.chosen_logit - trace.log_mass)),
            "entropy": None if trace is None else entropy(trace.raw_probabilities(), trace.unrecorded_mass()),
        }
        for token in cell.tokens
        for trace in [token.trace]
    ]


def steps_view(cell: Cell, position: int, values: SamplingParams, names: TokenNames) -> View:
    """The candidates of one token after temperature, top_k and top_p."""
    if not 0 <= position < len(cell.tokens):
        raise NotFound(f"The answer has {len(cell.tokens)} tokens, so there is no token {position + 1}.")
    token = cell.tokens[position]
    trace = token.trace
    if trace is None:
        raise BadRequest(NO_TRACE)
    steps = filter_steps(trace, values)
    bounds = _candidates_view(candidates_what_if([trace], 0, values, values)) if trace.reported else None

    def text(candidate: Candidate) -> str:
        return candidate_text(names, token, candidate.token_id)

    shown = [
        {
            **asdict(candidate),
            "rank": index,
            "text": text(candidate),
            "chosen": candidate.token_id == steps.chosen,
        }
        for index, candidate in enumerate(steps.candidates)
        if index < MAX_CANDIDATES or index == steps.chosen_index
    ]
    return {
        "position": position,
        "text": candidate_text(names, token, steps.chosen),
        "candidates": shown,
        "reported": len(steps.candidates) if trace.reported else None,
        "bounds": bounds,
        "hidden": len(steps.candidates) - len(shown),
        "unrecorded": asdict(steps.unrecorded),
        "draw": steps.draw,
        "forced": steps.forced,
        "candidates_left": steps.candidates_left,
        "exact": steps.exact,
        "chosen_recorded": steps.chosen_index is not None,
    }


def candidate_text(names: TokenNames, token: Token, token_id: int) -> str:
    """The displayed text of a candidate of the token."""
    sent = token.candidate_text(token_id)
    return token_text(names, token_id) if sent is None else sent


def token_text(names: TokenNames, token_id: int) -> str:
    """The displayed text of a token; a special token has its name."""
    if isinstance(names, TokenEstimate):
        return f"token {token_id}"
    return names.decode([token_id]) or names.token_name(token_id) or f"token {token_id}"


def whatif_view(
    cell: Cell, recorded: SamplingParams, params: SamplingParams, names: TokenNames, position: int | None = None
) -> View:
    """A finished answer under other values, computed from its record. position: of the token whose candidates are shown."""
    traces = cell.traces
    if traces is None:
        raise BadRequest(NO_TRACE)
    if position is not None and position >= len(traces):
        raise NotFound(f"The answer has {len(traces)} tokens, so there is no token {position + 1}.")
    found, before = what_if(traces, recorded, params), what_if(traces, recorded, recorded)
    difference = found.first_difference
    choice = None if difference is None else found.tokens[difference].choice
    return {
        "tokens": [
            {
                "possible": token.possible,
                "low": token.probability[0],
                "high": token.probability[1],
                "candidates_left": list(token.candidates_left),
                "exact": token.exact,
                "choice": None if token.choice is None else candidate_text(names, record, token.choice),
            }
            for token, record in zip(found.tokens, cell.tokens, strict=True)
        ],
        "first_difference": difference,
        "instead": None if difference is None or choice is None else candidate_text(names, cell.tokens[difference], choice),
        "reported": traces[0].reported,
        "first_unknown": found.first_unknown,
        "impossible": len(found.impossible),
        "tail_matters": len(found.tail_matters),
        "log10": [_log10(value) for value in found.log_probability],
        "log10_before": [_log10(value) for value in before.log_probability],
        "greedy": params.greedy,
        "candidates": None if position is None else _candidates_view(candidates_what_if(traces, position, recorded, params)),
    }


def _candidates_view(found: CandidatesWhatIf) -> View:
    stages = zip(found.after_temperature, found.after_top_k, found.final, strict=True)
    return {
        "stages": [list(map(list, bounds)) for bounds in stages],
        "rest": list(map(list, found.rest)),
        "left_by_top_k": found.left_by_top_k,
        "left": list(found.left),
        "choice": found.choice,
    }


def _log10(value: float) -> float | None:
    """None for the logarithm of 0, because JSON has no infinity."""
    return value / math.log(10) if math.isfinite(value) else None


def compare_view(run: Run, a: int, b: int, names: TokenNames) -> View:
    """Two answers: the words that differ, and where and why the answers diverge."""
    found = compare(run.answer(a), run.answer(b), run.effective_sampling(a), run.effective_sampling(b))
    view: View = {"same": found.same, "segments": [asdict(segment) for segment in found.segments], "divergence": None}
    divergence = found.divergence
    if divergence is not None:
        view["divergence"] = {
            "index": divergence.index,
            "cause": DIVERGENCE_CAUSES[divergence.cause],
            "a": _divergent_token(divergence.a, names),
            "b": _divergent_token(divergence.b, names),
        }
    return view


def _divergent_token(token: DivergentToken, names: TokenNames) -> View:
    top = [] if token.steps is None else token.steps.candidates[:6]

    def name(token_id: int) -> str:
        return token_text(names, token_id) if token.record is None else candidate_text(names, token.record, token_id)

    text = token.text if token.token_id is None or token.token_id < 0 else name(token.token_id)
    return {
        "text": None if token.token_id is None else text,
        "draw": token.draw,
        "other_possible": token.other_possible,
        "candidates": [{"text": name(c.token_id), "raw": c.raw, "final": c.final, "cut_by": c.cut_by} for c in top],
    }


def heat_view(run: Run, measure: str, rows: Axis, columns: Axis) -> View:
    """A heat map; the columns and rows are formatted."""
    found = heat_map(run, measure, rows, columns)
    return {
        "rows": [f"{value:g}" for value in found.row_values],
        "columns": [f"{value:g}" for value in found.column_values],
        "cells": [[{"text": found.measure.text(v), "shade": found.shade(v)} for v in row] for row in found.values],
    }
