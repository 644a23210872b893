"""What may become of a run after its end: a cell run again, a branch added, a branch deleted. Values in, values out."""

from __future__ import annotations

from typing import Any

from mllama_demo.errors import BadRequest
from mllama_demo.explore.results import Branch, Cell, Run


def with_cell(run: Run, index: int, cell: Cell) -> Run:
    """The run with another answer in the cell – or as it was, where a complete answer would make way for one that was stopped
    or failed."""
    if run.cells[index].complete and not cell.complete:
        return run
    return _checked(run, cells=(*run.cells[:index], cell, *run.cells[index + 1 :]))


def with_branch(run: Run, parent: int, position: int, cell: Cell) -> Run:
    """The run with one more branch, the last. parent, position: see Branch. Raises NotFound where the parent is gone."""
    run.answer(parent)
    number = max((branch.number for branch in run.branches), default=0) + 1
    added = Branch(number=number, parent=parent, position=position, token_id=cell.tokens[position].id, cell=cell)
    return _checked(run, branches=(*run.branches, added))


def without_branch(run: Run, index: int) -> Run:
    """Raises NotFound, and BadRequest for a cell of the grid and for a branch that another one leaves."""
    gone = run.branch(index)
    if gone is None:
        raise BadRequest(f"Answer {run.name(index)} is a cell of the grid; only branches can be deleted one by one.")
    for branch in run.branches:
        if branch.parent == index:
            names = f"{run.name(run.index_of(branch))} leaves {run.name(index)}"
            raise BadRequest(f"{names}; delete {run.name(run.index_of(branch))} first.")
    return _checked(run, branches=tuple(branch for branch in run.branches if branch is not gone))


def worth_keeping(cell: Cell, given: int) -> bool:
    """Whether a branch has anything of its own. given: how many of its tokens were there from the beginning."""
    return cell.complete or len(cell.tokens) > given


def _checked(run: Run, **changes: Any) -> Run:
    return Run.model_validate({**dict(run), **changes})
