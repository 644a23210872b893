"""A run as one self-contained HTML page, without scripts and without requests to other files."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from mllama_demo.config.branding import Brand
from mllama_demo.explore.filter_steps import filter_steps
from mllama_demo.explore.grid import AXES
from mllama_demo.explore.measures import MEASURES, group_cells, heat_map
from mllama_demo.explore.results import Cell, Run
from mllama_demo.explore.snippets import image_file, snippets
from mllama_demo.images.loading import DEFAULT_LIMITS
from mllama_demo.images.transforms import preview
from mllama_demo.sampling import BOUNDS, SamplingParams
from mllama_demo.web.templating import render

OUTCOMES = {
    None: "not run",
    "end_of_turn": "finished",
    "stop_string": "ended at a stop string",
    "max_tokens": "ended at max tokens",
    "context_full": "ended: the context is full",
    "time_limit": "cut off at the time limit",
    "cancelled": "stopped",
    "error": "failed",
}


@dataclass(frozen=True)
class _Piece:
    """Consecutive text of an answer.

    Attributes:
        improbability: 1 minus the model's probability of the token; None without a record.
        title: the tooltip.
        forced: whether a user chose the token, see Branch.
    """

    text: str
    improbability: float | None = None
    title: str = ""
    forced: bool = False

    @property
    def css_classes(self) -> str:
        """Classes that mark the token without colour."""
        value = self.improbability or 0
        return (" below-tenth" if value > 0.9 else " below-half" if value > 0.5 else "") + (" forced" if self.forced else "")


def html_report(run: Run, url: str, brand: Brand, shared: tuple[str, str] | None = None) -> str:
    """Renders the page.

    Args:
        url: of the API in the snippets.
        shared: on the page behind a link, when the link expires, and the address of the run on the Explore page.

    Raises:
        ImageError: the image is unreadable.
    """
    axes = run.grid.grouping_axes()
    maps = [heat_map(run, name, axes[0], axes[1]) for name in MEASURES] if len(axes) >= 2 else []
    image_url = None
    if run.image is not None:
        small = preview(run.image.load(DEFAULT_LIMITS))
        image_url = f"data:image/webp;base64,{base64.b64encode(small).decode()}"
    return render(
        "explore/report",
        brand,
        run=run,
        shared=shared,
        image_url=image_url,
        labels={axis: BOUNDS[axis].label for axis in AXES},
        number=_number,
        notes=run.grid.notes(),
        grouped_by=[BOUNDS[axis].label for axis in axes],
        groups=group_cells(run, axes),
        measures=list(MEASURES.values()),
        maps=[m for m in maps if any(value is not None for row in m.values for value in row)],
        cell_tokens=[_pieces(cell, run.effective_sampling(index)) for index, cell in enumerate(run.cells)],
        branch_tokens=[_pieces(branch.cell, run.effective_sampling(run.index_of(branch))) for branch in run.branches],
        has_traces=any(cell.traces for cell in run.cells),
        outcomes=OUTCOMES,
        snippets=snippets(run, 0, url),
        image_file=image_file(run),
    )


def _number(value: float) -> str:
    """A value as the page shows it: 1 for 1.0."""
    return str(value).removesuffix(".0")


def _pieces(cell: Cell, sampling: SamplingParams) -> list[_Piece]:
    pieces = []
    for token in cell.tokens:
        if token.trace is None or not token.text:
            pieces.append(_Piece(token.text))
            continue
        steps = filter_steps(token.trace, sampling)
        if steps.chosen_index is None:
            pieces.append(_Piece(token.text, 1.0, "not among the recorded candidates", steps.forced))
            continue
        chosen = steps.candidates[steps.chosen_index]
        title = f"{chosen.raw:.1%} before the filters, {chosen.final:.1%} after; {steps.candidates_left:,} candidates left"
        if token.trace.reported:
            title = f"{chosen.raw:.1%} as the server says"
        pieces.append(_Piece(token.text, round(1 - chosen.raw, 3), title, steps.forced))
    pieces.append(_Piece(cell.text[sum(len(piece.text) for piece in pieces) :]))
    return pieces
