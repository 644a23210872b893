"""Changes of a finished run: rename it, replace a cell, add a branch, delete a branch. Pure functions that return a new run."""

from __future__ import annotations

from typing import Any

from mllama_demo.errors import BadRequest
from mllama_demo.explore.grid import MAX_TITLE_LENGTH
from mllama_demo.explore.results import Branch, Cell, Run


def with_title(run: Run, title: str) -> Run:
    """The run with another name. Raises BadRequest for an empty or too long name."""
    title = " ".join(title.split())
    if not 1 <= len(title) <= MAX_TITLE_LENGTH:
        raise BadRequest(f"A name must have 1 to {MAX_TITLE_LENGTH} characters, this one has {len(title)}.")
    return _changed(run, grid=run.grid.model_copy(update={"title": title}))


def with_cell(run: Run, index: int, cell: Cell) -> Run:
    """The run with another answer in the cell. A complete answer is not replaced by one that was stopped or failed."""
    if run.cells[index].complete and not cell.complete:
        return run
    return _changed(run, cells=(*run.cells[:index], cell, *run.cells[index + 1 :]))


def with_branch(run: Run, parent: int, position: int, cell: Cell) -> Run:
    """The run with one more branch at the end. parent, position: see Branch. Raises NotFound where the parent was deleted."""
    run.answer(parent)
    number = max((branch.number for branch in run.branches), default=0) + 1
    added = Branch(number=number, parent=parent, position=position, token_id=cell.tokens[position].id, cell=cell)
    return _changed(run, branches=(*run.branches, added))


def without_branch(run: Run, index: int) -> Run:
    """The run without a branch. Raises NotFound, and BadRequest for a cell of the grid and for the parent of another branch."""
    deleted = run.branch_at(index)
    if deleted is None:
        raise BadRequest(f"Answer {run.name(index)} is a cell of the grid; only branches can be deleted one by one.")
    for branch in run.branches:
        if branch.parent == index:
            child = run.name(run.index_of(branch))
            raise BadRequest(f"{child} leaves {run.name(index)}; delete {child} first.")
    return _changed(run, branches=tuple(branch for branch in run.branches if branch is not deleted))


def has_own_tokens(cell: Cell, shared: int) -> bool:
    """Whether a branch is complete, or has more than the first `shared` tokens, which it was started with."""
    return cell.complete or len(cell.tokens) > shared


def _changed(run: Run, **changes: Any) -> Run:
    return Run.model_validate({**dict(run), **changes})
