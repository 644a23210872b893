"""Branches of a run: where they come from, what may become of them, and that they travel with the run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from mllama_demo.config.branding import Brand
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.explore.compare import compare
from mllama_demo.explore.edits import has_own_tokens, with_cell, without_branch
from mllama_demo.explore.filter_steps import filter_steps
from mllama_demo.explore.grid import make_grid
from mllama_demo.explore.import_export import from_json, to_csv, to_json
from mllama_demo.explore.report import html_report
from mllama_demo.explore.results import Run
from mllama_demo.explore.whatif import what_if
from tests.support.explore_runs import branched, failed, run_of, saying


@pytest.fixture(scope="module")
def family() -> Run:
    """Eight cells, a branch of the third cell, and one of that branch."""
    return branched(branched(run_of(), parent=2, position=1), parent=8, position=3)


# --- where they are ------------------------------------------------------------------------------------------------------


def test_a_branch_has_an_index_a_name_an_origin_and_the_values_of_its_cell(family: Run) -> None:
    first, second = family.branches
    assert [family.index_of(branch) for branch in family.branches] == [8, 9]
    assert [family.name(index) for index in (2, 8, 9)] == ["3", "B1", "B2"]
    assert family.origin(first) == f"from cell 3, with “{first.cell.tokens[1].text.strip()}” as token 2"
    assert family.origin(second).startswith("from branch B1, with")
    assert family.effective_sampling(9) == family.effective_sampling(2)
    assert family.answer(8) is first.cell
    assert first.cell.tokens[0] == family.cells[2].tokens[0]
    assert second.cell.tokens[1].id == first.token_id


@pytest.mark.parametrize(("index", "named"), [(-1, "no cell 0"), (10, "no branch 3"), (99, "no branch 92")])
def test_an_answer_that_is_not_there_is_named(family: Run, index: int, named: str) -> None:
    with pytest.raises(NotFound, match=named):
        family.answer(index)


def test_without_branches_there_are_only_cells() -> None:
    with pytest.raises(NotFound, match="8 cells, so there is no cell 9"):
        run_of().answer(8)


# --- what becomes of them ------------------------------------------------------------------------------------------------


def test_a_deleted_branch_leaves_the_others_with_their_names(family: Run) -> None:
    three = branched(family, parent=0)
    left = without_branch(three, 9)
    assert [left.name(left.index_of(branch)) for branch in left.branches] == ["B1", "B3"]
    assert left.answer(10) == three.answer(10)
    assert left.cells == three.cells


def test_a_branch_that_another_leaves_and_a_cell_of_the_grid_are_not_deleted(family: Run) -> None:
    with pytest.raises(BadRequest, match="B2 leaves B1; delete B2 first"):
        without_branch(family, 8)
    with pytest.raises(BadRequest, match="only branches"):
        without_branch(family, 0)
    with pytest.raises(NotFound):
        without_branch(family, 10)


def test_a_cell_run_again_takes_its_place_unless_it_would_lose_a_complete_answer() -> None:
    run = run_of()
    whole, stopped = run.cells[0], run.cells[0].model_copy(update={"outcome": "cancelled"})
    assert with_cell(run, 0, stopped) is run
    assert with_cell(run, 0, failed(whole)) is run
    broken = with_cell(run, 0, whole).model_copy(update={"cells": (failed(whole), *run.cells[1:])})
    assert with_cell(broken, 0, stopped).cells[0] == stopped
    assert with_cell(broken, 0, whole) == run


def test_a_branch_without_a_word_of_its_own_is_not_kept_unless_that_is_the_whole_answer() -> None:
    cell = run_of().cells[0]
    stopped = cell.model_copy(update={"outcome": "cancelled"})
    assert has_own_tokens(cell, 6)
    assert not has_own_tokens(stopped, 6)
    assert has_own_tokens(stopped, 5)


# --- what is told of them ------------------------------------------------------------------------------------------------


def test_the_token_chosen_by_hand_is_known_as_such(family: Run) -> None:
    cell, values = family.answer(8), family.effective_sampling(8)
    assert cell.traces is not None
    assert [filter_steps(trace, values).forced for trace in cell.traces] == [False, True, False, False, False, False]
    greedy = run_of(make_grid({"prompt": "x", "temperature": 0, "max_tokens": 6}))
    traces = branched(greedy).answer(1).traces
    assert traces is not None
    assert [filter_steps(trace, greedy.effective_sampling(0)).forced for trace in traces] == [
        False,
        True,
        False,
        False,
        False,
        False,
    ]


def test_the_same_values_would_choose_the_rest_of_a_branch_again(family: Run) -> None:
    """The token chosen by hand is given; neither it nor what the record does not tell of it comes first."""
    for index in (8, 9):
        cell, values = family.answer(index), family.effective_sampling(index)
        assert cell.traces is not None
        told = what_if(cell.traces, values, values)
        assert (told.first_difference, told.first_unknown) == (None, None)


def test_a_branch_parts_from_its_cell_where_somebody_chose(family: Run) -> None:
    found = compare(family.answer(2), family.answer(8), family.effective_sampling(2), family.effective_sampling(8)).divergence
    assert found is not None
    assert (found.index, found.cause) == (1, "forced")


# --- that they travel ----------------------------------------------------------------------------------------------------


def test_branches_are_exported_and_imported(family: Run) -> None:
    assert from_json(to_json(family)) == family


def test_a_file_of_version_1_is_a_run_without_branches() -> None:
    run = run_of()
    document = json.loads(to_json(run))
    document["version"] = 1
    del document["branches"]
    assert from_json(json.dumps(document)) == run


def change(key: str, value: Any, which: int = 0) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["branches"][which].__setitem__(key, value)


def crowd(document: dict[str, Any]) -> None:
    document["branches"] = [{**document["branches"][0], "number": number} for number in range(1, 66)]


def heap(document: dict[str, Any]) -> None:
    cell = document["branches"][0]["cell"]
    document["grid"]["max_tokens"] = 4096
    cell["tokens"] = cell["tokens"] + [{"id": 1, "text": "", "trace": None}] * 4000
    document["branches"] = [{**document["branches"][0], "number": number, "cell": cell} for number in range(1, 11)]


@pytest.mark.parametrize(
    ("lie", "named"),
    [
        (change("parent", 9), "not there"),
        (change("parent", 8), "not there"),
        (change("parent", -1), "parent"),
        (change("number", 2), "ascend"),
        (change("number", 10**30), "number"),
        (change("position", 6), "in its place"),
        (change("token_id", 5), "in its place"),
        (lambda d: d["branches"][0]["cell"].__setitem__("seed", 77), "seed 77"),
        (lambda d: d["grid"].__setitem__("max_tokens", 5) or [c["tokens"].pop() for c in d["cells"]], "more tokens"),
        (crowd, "at most 64"),
        (heap, "tokens"),
    ],
)
def test_branches_that_were_tampered_with_are_refused_by_name(family: Run, lie: Callable[..., Any], named: str) -> None:
    document = json.loads(to_json(family))
    lie(document)
    with pytest.raises(BadRequest, match=named):
        from_json(json.dumps(document))


def test_the_table_says_of_each_branch_what_it_leaves_and_where(family: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(family))))
    first, second = rows[8:]
    assert [row["cell"] for row in rows] == [*map(str, range(1, 9)), "B1", "B2"]
    assert {row["branch_of"] for row in rows[:8]} == {""}
    assert (first["branch_of"], first["branch_token_number"], second["branch_of"]) == ("3", "2", "B1")
    assert first["branch_token"] == family.branches[0].token
    assert first["text"] == family.branches[0].cell.text
    assert first["temperature"] == rows[2]["temperature"]


def test_the_page_shows_each_branch_with_its_origin(family: Run) -> None:
    html = html_report(family, "http://x/v1", Brand("x"))
    for branch in family.branches:
        assert family.origin(branch) in html
    assert html.count("<article>") == 10
    assert html.count('class="token') > 0
    assert html.count(' forced"') == 3  # B2 shows the one of B1 too
    assert "Branches" not in html_report(run_of(), "http://x/v1", Brand("x"))


def test_an_answer_without_records_has_branches_neither(family: Run) -> None:
    run = saying(run_of(), "Plain text")
    assert "framed" not in html_report(run, "http://x/v1", Brand("x"))
