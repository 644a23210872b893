"""Runs as files: JSON for export and import, CSV for a spreadsheet. An imported file is validated like any untrusted input."""

from __future__ import annotations

import csv
import io

from pydantic import ValidationError

from mllama_demo.engine.token_sampler import RECORDED_CANDIDATES
from mllama_demo.errors import BadRequest, ImageError
from mllama_demo.explore.grid import MAX_TOKENS, first_validation_message
from mllama_demo.explore.measures import MEASURES
from mllama_demo.explore.results import FORMAT, VERSION, Cell, Run
from mllama_demo.images.loading import DEFAULT_LIMITS, ImageLimits, size_text

# Size of one recorded token in JSON: 64 candidates with logits in full precision.
TOKEN_BYTES = 2048
# Of a run with MAX_TOKENS recorded tokens: two values for each candidate, and some for each token.
MAX_IMPORT_VALUES = MAX_TOKENS * (2 * RECORDED_CANDIDATES + 32)
MAX_IMPORT_CHARACTERS = 1_000_000  # of all answers; the worst Markdown takes 50 µs a character to be shown
# Size of everything else, such as the prompt, errors and text without tokens.
_REST_BYTES = 2**20
_CELL_MEASURES = ("distinct_1", "distinct_2", "entropy", "ttft", "speed")
# A spreadsheet treats text that begins with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_json(run: Run) -> str:
    """The whole run: grid, image, answers, tokens and their records."""
    return run.model_dump_json()


def max_import_bytes(limits: ImageLimits) -> int:
    """The largest possible size of a run's JSON: MAX_TOKENS recorded tokens, and the largest image in base64."""
    return MAX_TOKENS * TOKEN_BYTES + limits.max_bytes * 4 // 3 + _REST_BYTES


def from_json(data: bytes | str, limits: ImageLimits = DEFAULT_LIMITS) -> Run:
    """Validates an untrusted file and returns its run.

    Raises:
        BadRequest: names the first error of the file.
        ImageError: the image is unreadable, or differs from its description.
    """
    most = max_import_bytes(limits)
    if len(data) > most:
        raise BadRequest(f"The run is too large ({size_text(len(data))}); at most {size_text(most)} are allowed.")
    try:
        run = Run.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        if first["type"] == "json_invalid":
            raise BadRequest(f"The run is not JSON: {first['msg']}.") from None
        raise BadRequest(
            f"The file is no run of this program ({FORMAT!r}, version 1 to {VERSION}): {first_validation_message(error)}"
        ) from None
    characters = sum(len(run.answer(index).text) for index in run.indices)
    if characters > MAX_IMPORT_CHARACTERS:
        raise BadRequest(f"The answers of the run have {characters:,} characters; at most {MAX_IMPORT_CHARACTERS:,} are allowed.")
    if run.image is not None:
        image = run.image.load(limits)
        found = (image.digest, image.width, image.height, image.format)
        if found != (run.image.digest, run.image.width, run.image.height, run.image.format):
            raise ImageError(f'The image "{image.name}" of the run is not the one that the run tells of.')
    return run


def to_csv(run: Run) -> str:
    """One row for each cell, then one for each branch. Text that a spreadsheet would treat as a formula gets an apostrophe.

    Column cell is 1, 2, … for cells and B1, B2, … for branches. Column branch_of is the parent of a branch, and
    branch_token_number the number of the forced token, counted from 1.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")  # RFC 4180
    values = ("cell", "temperature", "top_p", "top_k", "seed")
    leaving = ("branch_of", "branch_token_number", "branch_token")
    writer.writerow([*values, *leaving, "outcome", "error", "tokens", "prompt_tokens", "waited_s", *_CELL_MEASURES, "text"])
    for index, cell in enumerate(run.cells):
        writer.writerow(_row(run.name(index), cell, ("", "", "")))
    for branch in run.branches:
        origin = (run.name(branch.parent), branch.position + 1, _escaped(branch.token))
        writer.writerow(_row(run.name(run.index_of(branch)), branch.cell, origin))
    return out.getvalue()


def _row(name: str, cell: Cell, branch: tuple[object, ...]) -> list[object]:
    measured = [MEASURES[measure].of([cell]) if cell.complete else None for measure in _CELL_MEASURES]
    return [
        *(name, cell.temperature, cell.top_p, cell.top_k, cell.seed, *branch),
        *(cell.outcome or "", _escaped(cell.error or ""), len(cell.tokens), cell.prompt_tokens),
        "" if cell.timings is None else cell.timings.waited_s,
        *("" if value is None else value for value in measured),
        _escaped(cell.text),
    ]


def _escaped(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
