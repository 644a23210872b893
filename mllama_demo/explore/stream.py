"""The progress of cells as JSON-compatible events, one for each change of a cell. The API and the Explore page send them.

This module knows CellTasks and nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict
from typing import Any

from mllama_demo.explore.grid import AXES, Estimate, Grid
from mllama_demo.explore.runner import CellProgress, CellTasks

JsonEvent = dict[str, Any]
# Limits the number of events: a page cannot draw nine cells at 100 tokens a second one by one.
INTERVAL_S = 0.08


def start_event(grid: Grid, estimate: Estimate, run_id: str) -> JsonEvent:
    """The first event: what will be run."""
    cells = [{axis: getattr(values, axis) for axis in AXES} for values in grid.cells()]
    return {"event": "start", "run": run_id, "cells": cells, "estimate": asdict(estimate), "notes": list(grid.notes())}


async def cell_events(tasks: CellTasks, numbers: Sequence[int] | None = None) -> AsyncGenerator[JsonEvent, None]:
    """Yields an event for each change of a cell, until all cells are done.

    In an event, text is what was added since the last event of the cell, and tokens is the total number so far.

    Args:
        tasks: the running cells.
        numbers: the number of each cell in the events; by default its index.
    """
    names = range(len(tasks.cells)) if numbers is None else numbers
    sent: list[tuple[str, int | None, int, int]] = [("", None, 0, 0)] * len(tasks.cells)
    while True:
        finished = tasks.finished
        for index, cell in enumerate(tasks.cells):
            now = (cell.phase, cell.position, len(cell.text), len(cell.tokens))
            if now != sent[index]:
                yield _cell_event(names[index], cell, cell.text[sent[index][2] :])
                sent[index] = now
        if finished:
            return
        await asyncio.sleep(INTERVAL_S)


def _cell_event(number: int, cell: CellProgress, text: str) -> JsonEvent:
    event: JsonEvent = {"event": "cell", "cell": number, "phase": cell.phase, "text": text, "tokens": len(cell.tokens)}
    if cell.position is not None:
        event["position"] = cell.position
    if cell.phase == "done":
        event |= {"outcome": cell.to_cell().outcome, "error": cell.error}
    return event
