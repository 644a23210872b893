"""Runs as files: JSON to keep and to bring back, CSV for a spreadsheet. What is brought back is checked like any stranger's."""

from __future__ import annotations

import csv
import io

from pydantic import ValidationError

from mllama_demo.errors import BadRequest, ImageError
from mllama_demo.explore.grid import MAX_TOKENS, first_problem
from mllama_demo.explore.measures import MEASURES
from mllama_demo.explore.results import FORMAT, VERSION, Cell, Run
from mllama_demo.images.loading import DEFAULT_LIMITS, ImageLimits, size_text

# JSON of one recorded token: 64 candidates with their logits, more than half of it digits that make a repetition exact.
TOKEN_BYTES = 2048
# Of everything else: the prompt, errors, and what stop strings held back.
_REST_BYTES = 2**20
_ONE_CELL = ("distinct_1", "distinct_2", "entropy", "ttft", "speed")
# What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_json(run: Run) -> str:
    """Everything: grid, picture, answers, tokens and their records."""
    return run.model_dump_json()


def max_import_bytes(limits: ImageLimits) -> int:
    """The most that a run's JSON takes: every token recorded, and a picture of the largest size in base64."""
    return MAX_TOKENS * TOKEN_BYTES + limits.max_bytes * 4 // 3 + _REST_BYTES


def from_json(data: bytes | str, limits: ImageLimits = DEFAULT_LIMITS) -> Run:
    """A run from a file that anybody may have written.

    Raises BadRequest with the first thing that is wrong in it, ImageError when its picture is none.
    """
    most = max_import_bytes(limits)
    if len(data) > most:
        raise BadRequest(f"The run is too large ({size_text(len(data))}); at most {size_text(most)} are allowed.")
    try:
        run = Run.model_validate_json(data)
    except ValidationError as error:
        if error.errors(include_input=False)[0]["type"] == "json_invalid":
            raise BadRequest(f"The run is not JSON: {error.errors(include_input=False)[0]['msg']}.") from None
        raise BadRequest(
            f"The file is no run of this program ({FORMAT!r}, version 1 or {VERSION}): {first_problem(error)}"
        ) from None
    if run.image is not None:
        image = run.image.load(limits)
        found = (image.digest, image.width, image.height, image.format)
        if found != (run.image.digest, run.image.width, run.image.height, run.image.format):
            raise ImageError(f'The image "{image.name}" of the run is not the one that the run tells of.')
    return run


def to_csv(run: Run) -> str:
    """One line a cell, then one a branch. Text that a spreadsheet would take for a formula has an apostrophe before it.

    cell: 1, 2, … and B1, B2, … for branches; branch_of: the answer that it leaves, at the token of that number, counted from 1.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")  # RFC 4180
    values = ("cell", "temperature", "top_p", "top_k", "seed")
    leaving = ("branch_of", "branch_token_number", "branch_token")
    writer.writerow([*values, *leaving, "outcome", "error", "tokens", "prompt_tokens", "waited_s", *_ONE_CELL, "text"])
    for index, cell in enumerate(run.cells):
        writer.writerow(_row(run.name(index), cell, ("", "", "")))
    for branch in run.branches:
        left = (run.name(branch.parent), branch.position + 1, _plain(branch.token))
        writer.writerow(_row(run.name(run.index_of(branch)), branch.cell, left))
    return out.getvalue()


def _row(name: str, cell: Cell, left: tuple[object, ...]) -> list[object]:
    measured = [MEASURES[measure].of([cell]) if cell.complete else None for measure in _ONE_CELL]
    return [
        *(name, cell.temperature, cell.top_p, cell.top_k, cell.seed, *left),
        *(cell.outcome or "", _plain(cell.error or ""), len(cell.tokens), cell.prompt_tokens),
        "" if cell.timings is None else cell.timings.waited_s,
        *("" if value is None else value for value in measured),
        _plain(cell.text),
    ]


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
