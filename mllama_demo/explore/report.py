"""A run as one HTML page that needs nothing else: to read, to print, to send around. No script, no request leaves it."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from mllama_demo.config.branding import Brand
from mllama_demo.explore.filter_steps import steps_of
from mllama_demo.explore.grid import AXES
from mllama_demo.explore.measures import MEASURES, groups, heat_map
from mllama_demo.explore.results import Cell, Run
from mllama_demo.explore.snippets import image_file, snippets
from mllama_demo.images.loading import DEFAULT_LIMITS, preview
from mllama_demo.sampling import SamplingParams
from mllama_demo.web.templating import render

OUTCOMES = {
    None: "not run",
    "end_of_turn": "finished",
    "stop_string": "ended at a stop string",
    "max_tokens": "ended at max_tokens",
    "context_full": "ended: the context is full",
    "time_limit": "cut off at the time limit",
    "cancelled": "stopped",
    "error": "failed",
}


@dataclass(frozen=True)
class _Piece:
    """A run of text. doubt: 1 less the model's probability of its token, None without a record. by_hand: whether somebody chose
    it, see Branch."""

    text: str
    doubt: float | None = None
    title: str = ""
    by_hand: bool = False

    @property
    def mark(self) -> str:
        """Its classes in the page: what can be seen of it without colour."""
        unlikely = 0 if self.doubt is None else self.doubt
        return (" tenth" if unlikely > 0.9 else " half" if unlikely > 0.5 else "") + (" hand" if self.by_hand else "")


def html_report(run: Run, url: str, brand: Brand) -> str:
    """The page. url: of the API that the snippets ask. Raises ImageError for a picture that is none."""
    axes = run.grid.compared()
    maps = [heat_map(run, name, axes[0], axes[1]) for name in MEASURES] if len(axes) >= 2 else []
    picture = None
    if run.image is not None:
        small = preview(run.image.load(DEFAULT_LIMITS))
        picture = f"data:image/webp;base64,{base64.b64encode(small).decode()}"
    return render(
        "exploration",
        brand,
        run=run,
        picture=picture,
        axes=AXES,
        notes=run.grid.notes(),
        grouped_by=axes,
        groups=groups(run, axes),
        measures=list(MEASURES.values()),
        maps=[m for m in maps if any(value is not None for row in m.values for value in row)],
        tokens=[_pieces(cell, run.sampling(index)) for index, cell in enumerate(run.cells)],
        branched=[_pieces(branch.cell, run.sampling(run.index_of(branch))) for branch in run.branches],
        shaded=any(cell.traces for cell in run.cells),
        outcomes=OUTCOMES,
        snippets=snippets(run, 0, url),
        image_file=image_file(run),
    )


def _pieces(cell: Cell, sampling: SamplingParams) -> list[_Piece]:
    pieces = []
    for token in cell.tokens:
        if token.trace is None or not token.text:
            pieces.append(_Piece(token.text))
            continue
        steps = steps_of(token.trace, sampling)
        if steps.chosen_index is None:
            pieces.append(_Piece(token.text, 1.0, "not among the recorded candidates", steps.by_hand))
            continue
        chosen = steps.candidates[steps.chosen_index]
        title = f"{chosen.raw:.1%} before the filters, {chosen.final:.1%} after; {steps.kept:,} candidates left"
        pieces.append(_Piece(token.text, round(1 - chosen.raw, 3), title, steps.by_hand))
    pieces.append(_Piece(cell.text[sum(len(piece.text) for piece in pieces) :]))
    return pieces
