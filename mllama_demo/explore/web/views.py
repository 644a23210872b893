"""Runs as the Explore page draws them: plain objects for JSON. Knows no HTTP and starts nothing."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.explore.compare import Seen, compare
from mllama_demo.explore.filter_steps import entropy, steps_of
from mllama_demo.explore.grid import AXES, Axis
from mllama_demo.explore.measures import MEASURES, groups, heat_map, mean_entropy
from mllama_demo.explore.report import OUTCOMES
from mllama_demo.explore.results import Branch, Cell, Run
from mllama_demo.explore.web.tour import PARTINGS
from mllama_demo.explore.whatif import what_if
from mllama_demo.sampling import SamplingParams

View = dict[str, Any]
Names = Tokenizer | TokenEstimate
SHOWN_CANDIDATES = 24


def run_view(run: Run, names: Names) -> View:
    """The whole grid, its branches, its measures, and nothing of single tokens."""
    axes = run.grid.compared()
    return {
        "id": run.id,
        "title": run.title,
        "created": run.created.isoformat(),
        "model": run.model,
        "device": run.device,
        "repeatable": run.repeatable,
        "prompt": run.grid.prompt,
        "image": run.image is not None,
        "max_tokens": run.grid.max_tokens,
        "values": {axis: list(getattr(run.grid, axis)) for axis in AXES},
        "varied": list(run.grid.varied()),
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
            for group in groups(run, axes)
        ],
    }


def cell_view(run: Run, index: int) -> View:
    """One answer, of a cell or of a branch. index: see Run.answer."""
    cell = run.answer(index)
    doubt = mean_entropy(cell)
    facts = [f"{len(cell.tokens)} {'token' if len(cell.tokens) == 1 else 'tokens'}"]
    facts += [] if doubt is None else [f"{doubt:.2f} bits"]
    return {
        "index": index,
        "name": run.name(index),
        **{axis: getattr(cell, axis) for axis in AXES},
        "text": cell.text,
        "outcome": cell.outcome,
        "ended": OUTCOMES[cell.outcome],
        "error": cell.error,
        "facts": " · ".join(facts),
        "traced": cell.traces is not None,
    }


def branch_view(run: Run, branch: Branch, names: Names) -> View:
    """shared: how many characters of its text are its parent's."""
    before = branch.cell.tokens[: branch.position]
    return {
        **cell_view(run, run.index_of(branch)),
        "parent": branch.parent,
        "parent_name": run.name(branch.parent),
        "position": branch.position,
        "token": name_of(names, branch.token_id),
        "shared": sum(len(token.text) for token in before),
    }


def tokens_view(cell: Cell) -> list[View]:
    """Each token with its raw probability and the entropy of the model's own distribution in bits; null without a record."""
    found = []
    for token in cell.tokens:
        trace = token.trace
        if trace is None:
            found.append({"text": token.text, "raw": None, "entropy": None})
            continue
        raw = math.exp(trace.chosen_logit - trace.log_mass)
        bits = entropy(trace.raw_probabilities(), trace.unrecorded_mass())
        found.append({"text": token.text, "raw": min(1.0, raw), "entropy": bits})
    return found


def steps_view(cell: Cell, position: int, values: SamplingParams, names: Names) -> View:
    """One token's way through temperature, top_k and top_p."""
    if not 0 <= position < len(cell.tokens):
        raise NotFound(f"The answer has {len(cell.tokens)} tokens, so there is no token {position + 1}.")
    trace = cell.tokens[position].trace
    if trace is None:
        raise BadRequest("This answer has no record of its candidates: the backend tells no probabilities.")
    steps = steps_of(trace, values)
    shown = [
        {**asdict(candidate), "text": name_of(names, candidate.token_id), "chosen": candidate.token_id == steps.chosen}
        for index, candidate in enumerate(steps.candidates)
        if index < SHOWN_CANDIDATES or index == steps.chosen_index
    ]
    return {
        "position": position,
        "text": name_of(names, steps.chosen),
        "candidates": shown,
        "hidden": len(steps.candidates) - len(shown),
        "outside": asdict(steps.outside),
        "draw": steps.draw,
        "by_hand": steps.by_hand,
        "kept": steps.kept,
        "exact": steps.exact,
        "chosen_recorded": steps.chosen_index is not None,
    }


def name_of(names: Names, token_id: int) -> str:
    """A token for people to read; a special one by its name."""
    if isinstance(names, TokenEstimate):
        return f"token {token_id}"
    return names.decode([token_id]) or names.token_name(token_id) or f"token {token_id}"


def whatif_view(cell: Cell, recorded: SamplingParams, params: SamplingParams, names: Names) -> View:
    """What a finished answer would have been under other values, from its record alone."""
    traces = cell.traces
    if traces is None:
        raise BadRequest("This answer has no record of its candidates: the backend tells no probabilities.")
    found, before = what_if(traces, recorded, params), what_if(traces, recorded, recorded)
    at = found.first_difference
    return {
        "tokens": [
            {
                "possible": token.possible,
                "low": token.probability[0],
                "high": token.probability[1],
                "kept": list(token.kept),
                "exact": token.exact,
                "choice": None if token.choice is None else name_of(names, token.choice),
            }
            for token in found.tokens
        ],
        "first_difference": at,
        "instead": None if at is None or (c := found.tokens[at].choice) is None else name_of(names, c),
        "first_unknown": found.first_unknown,
        "impossible": len(found.impossible),
        "tail_matters": len(found.tail_matters),
        "log10": [_log10(value) for value in found.log_probability],
        "log10_before": [_log10(value) for value in before.log_probability],
        "greedy": params.greedy,
    }


def _log10(value: float) -> float | None:
    """None for the logarithm of 0, which JSON has no number for."""
    return value / math.log(10) if math.isfinite(value) else None


def compare_view(run: Run, a: int, b: int, names: Names) -> View:
    """Two cells: the words that differ, and where and why they parted."""
    found = compare(run.answer(a), run.answer(b), run.sampling(a), run.sampling(b))
    parting = found.parting
    view: View = {"same": found.same, "parts": [asdict(part) for part in found.parts], "parting": None}
    if parting is not None:
        view["parting"] = {
            "index": parting.index,
            "cause": PARTINGS[parting.cause],
            "a": _seen(parting.a, names),
            "b": _seen(parting.b, names),
        }
    return view


def _seen(seen: Seen, names: Names) -> View:
    top = [] if seen.steps is None else seen.steps.candidates[:6]
    return {
        "text": None if seen.token_id is None else (seen.text if seen.token_id < 0 else name_of(names, seen.token_id)),
        "draw": seen.draw,
        "other_possible": seen.other_possible,
        "candidates": [{"text": name_of(names, c.token_id), "raw": c.raw, "final": c.final, "cut_by": c.cut_by} for c in top],
    }


def heat_view(run: Run, measure: str, rows: Axis, columns: Axis) -> View:
    found = heat_map(run, measure, rows, columns)
    return {
        "rows": [f"{value:g}" for value in found.row_values],
        "columns": [f"{value:g}" for value in found.column_values],
        "cells": [[{"text": found.measure.text(v), "shade": found.shade(v)} for v in row] for row in found.values],
    }
