"""A grid under way as a stream of plain objects, one for each change of a cell: what the API and the page both send.

Knows CellRuns; nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict
from typing import Any

from mllama_demo.explore.grid import Estimate, Grid
from mllama_demo.explore.runner import CellRuns, LiveCell

Line = dict[str, Any]
WENT_WRONG = "Something went wrong in the server; its log has the cause."
# Changes are gathered for this long: nine cells at a hundred tokens a second would be more than a page can draw.
EVERY_S = 0.08


def first_line(grid: Grid, estimate: Estimate, run_id: str) -> Line:
    """What will be run, before any of it is."""
    names = ("temperature", "top_p", "top_k", "seed")
    cells = [{name: getattr(values, name) for name in names} for values in grid.cells()]
    return {"event": "start", "run": run_id, "cells": cells, "estimate": asdict(estimate), "notes": list(grid.notes())}


async def lines_of(run: CellRuns, numbers: Sequence[int] | None = None) -> AsyncGenerator[Line, None]:
    """What changes in the cells until all are done. numbers: what the cells are called, their places when left out.

    text is what came since the cell's last line; tokens is the count so far.
    """
    names = range(len(run.cells)) if numbers is None else numbers
    said: list[tuple[str, int | None, int, int]] = [("", None, 0, 0)] * len(run.cells)
    while True:
        finished = run.finished
        for at, cell in enumerate(run.cells):
            now = (cell.phase, cell.position, len(cell.text), len(cell.tokens))
            if now != said[at]:
                yield _line(names[at], cell, cell.text[said[at][2] :])
                said[at] = now
        if finished:
            return
        await asyncio.sleep(EVERY_S)


def _line(number: int, cell: LiveCell, text: str) -> Line:
    line: Line = {"event": "cell", "cell": number, "phase": cell.phase, "text": text, "tokens": len(cell.tokens)}
    if cell.position is not None:
        line["position"] = cell.position
    if cell.phase == "done":
        line |= {"outcome": cell.result().outcome, "error": cell.error}
    return line
