"""Branches of a run: index and origin, edits, analysis, export and import."""

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
from tests.support.explore_runs import failed_cell, make_run, with_sampled_branch, with_texts


@pytest.fixture(scope="module")
def branched_run() -> Run:
    """Eight cells, a branch of the third cell, and one of that branch."""
    return with_sampled_branch(with_sampled_branch(make_run(), parent=2, position=1), parent=8, position=3)


# --- index, name, origin -------------------------------------------------------------------------------------------------


def test_a_branch_has_index_name_origin_and_its_parents_sampling_values(branched_run: Run) -> None:
    first, second = branched_run.branches
    assert [branched_run.index_of(branch) for branch in branched_run.branches] == [8, 9]
    assert [branched_run.name(index) for index in (2, 8, 9)] == ["3", "B1", "B2"]
    assert branched_run.origin(first) == f"from cell 3, with “{first.cell.tokens[1].text.strip()}” as token 2"
    assert branched_run.origin(second).startswith("from branch B1, with")
    assert branched_run.effective_sampling(9) == branched_run.effective_sampling(2)
    assert branched_run.answer(8) is first.cell
    assert first.cell.tokens[0] == branched_run.cells[2].tokens[0]
    assert second.cell.tokens[1].id == first.token_id


@pytest.mark.parametrize(("index", "named"), [(-1, "no cell 0"), (10, "no branch 3"), (99, "no branch 92")])
def test_an_unknown_answer_index_raises_not_found(branched_run: Run, index: int, named: str) -> None:
    with pytest.raises(NotFound, match=named):
        branched_run.answer(index)


def test_a_run_without_branches_has_only_cells() -> None:
    with pytest.raises(NotFound, match="8 cells, so there is no cell 9"):
        make_run().answer(8)


# --- edits ---------------------------------------------------------------------------------------------------------------


def test_deleting_a_branch_does_not_rename_the_others(branched_run: Run) -> None:
    three = with_sampled_branch(branched_run, parent=0)
    left = without_branch(three, 9)
    assert [left.name(left.index_of(branch)) for branch in left.branches] == ["B1", "B3"]
    assert left.answer(10) == three.answer(10)
    assert left.cells == three.cells


def test_a_parent_branch_and_a_grid_cell_cannot_be_deleted(branched_run: Run) -> None:
    with pytest.raises(BadRequest, match="B2 leaves B1; delete B2 first"):
        without_branch(branched_run, 8)
    with pytest.raises(BadRequest, match="only branches"):
        without_branch(branched_run, 0)
    with pytest.raises(NotFound):
        without_branch(branched_run, 10)


def test_a_rerun_cell_never_replaces_a_complete_answer_by_an_incomplete_one() -> None:
    run = make_run()
    whole, stopped = run.cells[0], run.cells[0].model_copy(update={"outcome": "cancelled"})
    assert with_cell(run, 0, stopped) is run
    assert with_cell(run, 0, failed_cell(whole)) is run
    broken = with_cell(run, 0, whole).model_copy(update={"cells": (failed_cell(whole), *run.cells[1:])})
    assert with_cell(broken, 0, stopped).cells[0] == stopped
    assert with_cell(broken, 0, whole) == run


def test_a_stopped_branch_has_own_tokens_only_beyond_the_shared_ones() -> None:
    cell = make_run().cells[0]
    stopped = cell.model_copy(update={"outcome": "cancelled"})
    assert has_own_tokens(cell, 6)
    assert not has_own_tokens(stopped, 6)
    assert has_own_tokens(stopped, 5)


# --- analysis ------------------------------------------------------------------------------------------------------------


def test_filter_steps_mark_the_forced_token(branched_run: Run) -> None:
    cell, values = branched_run.answer(8), branched_run.effective_sampling(8)
    assert cell.traces is not None
    assert [filter_steps(trace, values).forced for trace in cell.traces] == [False, True, False, False, False, False]
    greedy = make_run(make_grid({"prompt": "x", "temperature": 0, "max_tokens": 6}))
    traces = with_sampled_branch(greedy).answer(1).traces
    assert traces is not None
    assert [filter_steps(trace, greedy.effective_sampling(0)).forced for trace in traces] == [
        False,
        True,
        False,
        False,
        False,
        False,
    ]


def test_what_if_with_the_recorded_values_finds_no_difference_in_a_branch(branched_run: Run) -> None:
    """The forced token counts neither as a difference nor as unknown."""
    for index in (8, 9):
        cell, values = branched_run.answer(index), branched_run.effective_sampling(index)
        assert cell.traces is not None
        result = what_if(cell.traces, values, values)
        assert (result.first_difference, result.first_unknown) == (None, None)


def test_a_branch_diverges_from_its_parent_at_the_forced_token(branched_run: Run) -> None:
    found = compare(
        branched_run.answer(2), branched_run.answer(8), branched_run.effective_sampling(2), branched_run.effective_sampling(8)
    ).divergence
    assert found is not None
    assert (found.index, found.cause) == (1, "forced")


# --- files ---------------------------------------------------------------------------------------------------------------


def test_branches_are_exported_and_imported(branched_run: Run) -> None:
    assert from_json(to_json(branched_run)) == branched_run


def test_a_version_1_file_is_imported_without_branches() -> None:
    run = make_run()
    document = json.loads(to_json(run))
    document["version"] = 1
    del document["branches"]
    assert from_json(json.dumps(document)) == run


def change(key: str, value: Any, which: int = 0) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["branches"][which].__setitem__(key, value)


def too_many_branches(document: dict[str, Any]) -> None:
    document["branches"] = [{**document["branches"][0], "number": number} for number in range(1, 66)]


def too_many_tokens(document: dict[str, Any]) -> None:
    cell = document["branches"][0]["cell"]
    document["grid"]["max_tokens"] = 4096
    cell["tokens"] = cell["tokens"] + [{"id": 1, "text": "", "trace": None}] * 4000
    document["branches"] = [{**document["branches"][0], "number": number, "cell": cell} for number in range(1, 11)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("corrupt", "named"),
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
        (too_many_branches, "at most 64"),
        (too_many_tokens, "tokens"),
    ],
)
def test_corrupted_branches_are_refused_and_the_message_names_the_error(
    branched_run: Run, corrupt: Callable[..., Any], named: str
) -> None:
    document = json.loads(to_json(branched_run))
    corrupt(document)
    with pytest.raises(BadRequest, match=named):
        from_json(json.dumps(document))


def test_csv_has_parent_and_position_of_each_branch(branched_run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(branched_run))))
    first, second = rows[8:]
    assert [row["cell"] for row in rows] == [*map(str, range(1, 9)), "B1", "B2"]
    assert {row["branch_of"] for row in rows[:8]} == {""}
    assert (first["branch_of"], first["branch_token_number"], second["branch_of"]) == ("3", "2", "B1")
    assert first["branch_token"] == branched_run.branches[0].token
    assert first["text"] == branched_run.branches[0].cell.text
    assert first["temperature"] == rows[2]["temperature"]


def test_the_report_shows_each_branch_with_its_origin(branched_run: Run) -> None:
    html = html_report(branched_run, "http://x/v1", Brand("x"))
    for branch in branched_run.branches:
        assert branched_run.origin(branch) in html
    assert html.count("<article>") == 10
    assert html.count('class="token') > 0
    assert html.count(' forced"') == 3  # B2 shows the one of B1 too
    assert "Branches" not in html_report(make_run(), "http://x/v1", Brand("x"))


def test_a_report_without_traces_does_not_explain_frames(branched_run: Run) -> None:
    run = with_texts(make_run(), "Plain text")
    assert "framed" not in html_report(run, "http://x/v1", Brand("x"))
