"""Exploring the embedded checkpoint: cells, branches and what-if results agree with separate requests."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.backends import make_backend
from mllama_demo.cli import main
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import GenerationRequest, TokenEvent
from mllama_demo.explore.filter_steps import Candidate, FilterSteps, filter_steps
from mllama_demo.explore.grid import make_grid
from mllama_demo.explore.import_export import from_json
from mllama_demo.explore.results import Cell, Run
from mllama_demo.explore.runner import Explorer
from mllama_demo.explore.web.tour import TOUR
from mllama_demo.explore.whatif import what_if
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.sampling import SamplingParams
from tests.support.paths import EXAMPLE_IMAGES

pytestmark = pytest.mark.timeout(900)
DOG = EXAMPLE_IMAGES / "dog.png"
# The temperatures are high enough for different answers, so that an error in sharing becomes visible.
GRID = make_grid({"prompt": "What do you see?", "temperature": [0.0, 1.6, 2.0], "top_p": 1.0, "seed": [1, 2], "max_tokens": 16})


class LoadedBackend:
    """A loaded backend with three slots, fewer than the six cells of GRID."""

    def __init__(self, **options: Any) -> None:
        settings, ready = Settings(device="cpu", batch_size=3, seq_len=256, **options), threading.Event()
        backend, tokenizer = make_backend(settings, on_ready=ready.set)
        self.backend: Any = backend
        self.tokenizer: Any = tokenizer
        self.backend.start()
        assert ready.wait(300), self.backend.status().detail
        self.explorer = Explorer(self.backend, self.tokenizer, settings)
        self.image: LoadedImage = load_image(DOG.read_bytes(), "dog.png")

    def run(self, work: Any) -> Any:
        return asyncio.run(work)

    async def explore(self) -> tuple[Run, list[GenerationRequest]]:
        async with await self.explorer.start(GRID, self.image) as cells:
            await cells.wait()
            return cells.run(), list(cells._requests)

    async def tokens_of(self, request: GenerationRequest) -> list[int]:
        async with aclosing(self.backend.generate(request)) as events:
            return [event.token_id async for event in events if isinstance(event, TokenEvent)]


@pytest.fixture(scope="module")
def loaded() -> Iterator[LoadedBackend]:
    loaded = LoadedBackend()
    yield loaded
    loaded.backend.close()


@pytest.fixture(scope="module")
def uncached() -> Iterator[LoadedBackend]:
    """A backend that reads every prompt from its beginning."""
    loaded = LoadedBackend(prefix_cache_mb=0)
    yield loaded
    loaded.backend.close()


@pytest.fixture(scope="module")
def explored(loaded: LoadedBackend) -> tuple[Run, list[GenerationRequest]]:
    return loaded.run(loaded.explore())


@pytest.mark.slow
def test_cells_equal_separate_requests_with_their_seeds(uncached: LoadedBackend, explored) -> None:
    run, requests = explored
    assert {cell.outcome for cell in run.cells} <= {"max_tokens", "end_of_turn"}
    assert len({cell.text for cell in run.cells}) > 2

    async def separately() -> list[list[int]]:
        return [await uncached.tokens_of(request) for request in requests]

    assert [[token.id for token in cell.tokens] for cell in run.cells] == uncached.run(separately())


def test_the_shared_prompt_is_prefilled_once(loaded: LoadedBackend, explored) -> None:
    runner: Any = loaded.backend._scheduler._runner
    readers: set[str] = set()
    read_text = runner._read_text
    runner._read_text = lambda slot, state, piece: readers.add(state.request.id) or read_text(slot, state, piece)
    other = make_grid({**GRID.model_dump(), "prompt": "What colour is it?"})

    async def explore() -> None:
        async with await loaded.explorer.start(other, loaded.image) as cells:
            await cells.wait()

    try:
        loaded.run(explore())
    finally:
        del runner._read_text
    assert len(readers) == 1


def test_concurrent_grids_with_different_shared_prompts_do_not_mix(loaded: LoadedBackend, uncached: LoadedBackend) -> None:
    """As many prompts as slots: each answer belongs to its own prompt."""
    prompts = [make_grid({**GRID.model_dump(), "prompt": text, "temperature": 1.6}) for text in ("What is it?", "Who?", "Where?")]

    async def all_at_once() -> tuple[list[Run], list[list[GenerationRequest]]]:
        runs = [await loaded.explorer.start(grid, loaded.image if i else None) for i, grid in enumerate(prompts)]
        for cells in runs:
            await cells.wait()
        return [cells.run() for cells in runs], [list(cells._requests) for cells in runs]

    async def separately(requests: list[GenerationRequest]) -> list[list[int]]:
        return [await uncached.tokens_of(request) for request in requests]

    runs, requests = loaded.run(all_at_once())
    expected = [uncached.run(separately(each)) for each in requests]
    assert [[[token.id for token in cell.tokens] for cell in run.cells] for run in runs] == expected


def test_a_branch_with_the_original_token_reproduces_the_answer(loaded: LoadedBackend, explored) -> None:
    run, _ = explored
    index = max(range(len(run.cells)), key=lambda i: len(run.cells[i].tokens))
    cell, position = run.cells[index], 5

    async def branch(token_id: int) -> Any:
        async with await loaded.explorer.branch(run, index, position, token_id, loaded.image) as cells:
            await cells.wait()
            return cells.cells[0].to_cell()

    same = loaded.run(branch(cell.tokens[position].id))
    assert (same.text, same.outcome) == (cell.text, cell.outcome)
    assert [token.id for token in same.tokens] == [token.id for token in cell.tokens]
    trace = cell.tokens[position].trace
    assert trace is not None
    candidate = next(id for id in trace.token_ids if id != trace.chosen)
    other = loaded.run(branch(candidate))
    assert [t.id for t in other.tokens[: position + 1]] == [*(t.id for t in cell.tokens[:position]), candidate]
    assert len(other.tokens) > position + 1


@pytest.mark.parametrize(
    "after",
    [
        {"temperature": 0.0},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 1.6, "top_k": 20},
        {"temperature": 2.0, "top_p": 0.5},
        {"temperature": 2.0, "top_p": 1.0, "top_k": 2},
    ],
    ids=str,
)
def test_what_if_predicts_where_a_rerun_with_the_same_seed_diverges(loaded: LoadedBackend, explored, after: dict) -> None:
    run, requests = explored
    checked = 0
    for index, cell in enumerate(run.cells):
        before = run.effective_sampling(index)
        assert cell.traces is not None
        params = SamplingParams(**{"top_p": 1.0, "max_tokens": 16, "seed": before.seed, **after})
        result = what_if(cell.traces, before, params)
        if result.first_unknown is not None:
            continue
        again = loaded.run(loaded.tokens_of(replace(requests[index], sampling=params, id=f"again {index} {after}")))
        ids = [token.id for token in cell.tokens]
        differs = next((i for i, (a, b) in enumerate(zip(ids, again, strict=False)) if a != b), None)
        assert differs == result.first_difference
        checked += 1
    assert checked >= 3


def test_explore_runs_a_grid_and_writes_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "grid.yaml").write_text(
        f"prompt: What do you see?\nimage: {json.dumps(str(DOG))}\ntemperature: [0, 1.8]\nseed: [1, 2]\nmax_tokens: 6\n",
        encoding="utf-8",
    )
    out, page = tmp_path / "run.json", tmp_path / "report.html"
    options = ["--output", str(out), "--html", str(page), "--seq-len", "256", "--device", "cpu", "--batch-size", "2"]
    assert main(["explore", "--spec", str(tmp_path / "grid.yaml"), *options]) == 0
    run = from_json(out.read_bytes())
    assert (run.grid.temperature, len(run.cells), run.failed_count) == ((0.0, 1.8), 4, 0)
    assert run.image is not None
    assert run.image.data == DOG.read_bytes()
    result = capsys.readouterr()
    assert "the prompt is read once" in result.err
    assert run.cells[0].text[:20] in result.out
    assert "dog.png" in page.read_text(encoding="utf-8")


# --- the guided tour -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FinishedStep:
    """A finished step of the tour: its run, and the candidates of the token that the tour opens."""

    run: Run
    cell: Cell
    steps: FilterSteps
    names: dict[str, Candidate]


@pytest.fixture(scope="module")
def tour(loaded: LoadedBackend) -> dict[str, FinishedStep]:
    async def run_tour() -> dict[str, FinishedStep]:
        finished = {}
        for step in TOUR:
            image = None if step.image is None else load_image((EXAMPLES_FOLDER / step.image).read_bytes(), step.image)
            async with await loaded.explorer.start(make_grid(step.grid), image) as cells:
                await cells.wait()
            run = cells.run()
            cell = run.cells[step.cell]
            trace = cell.tokens[step.token].trace
            assert trace is not None
            steps = filter_steps(trace, run.effective_sampling(step.cell))
            names = {
                loaded.tokenizer.token_bytes(c.token_id).decode(errors="replace").strip(): c for c in reversed(steps.candidates)
            }
            assert cell.tokens[step.token].text.strip() in re.findall("“(.+?)”", step.embedded_text)
            finished[step.title] = FinishedStep(run, cell, steps, names)
        return finished

    return loaded.run(run_tour())


@pytest.mark.slow
def test_the_tour_text_about_greedy_and_seeds_is_true(tour: dict[str, FinishedStep]) -> None:
    greedy, seeds = tour["Greedy repeats itself"], tour["A seed is a fate"]
    assert len({cell.text for cell in greedy.run.cells}) == 1
    assert [f"{greedy.names[name].raw:.4f}" for name in ("Once", "One")] == ["0.3443", "0.3441"]
    assert len({cell.text for cell in seeds.run.cells}) == 3
    assert f"{seeds.names['The'].final:.3f}" == "0.299"
    assert ["There once was a dog" in cell.text for cell in seeds.run.cells][1]
    assert ["One morning a dog woke up" in cell.text for cell in seeds.run.cells] == [False, False, True]


@pytest.mark.slow
def test_the_tour_text_about_temperature_is_true(tour: dict[str, FinishedStep]) -> None:
    finished = tour["Temperature 2 wanders"]
    assert (f"{finished.names['am'].raw:.4f}", f"{finished.names['am'].final:.2f}") == ("0.0002", "0.01")
    assert ["dog" in cell.text for cell in finished.run.cells] == [True, True, False]


@pytest.mark.slow
def test_the_tour_text_about_filters_is_true(tour: dict[str, FinishedStep]) -> None:
    top_k, top_p = tour["Top-k cuts the tail"], tour["Top-p cuts what is improbable"]
    assert [candidate.token_id for candidate in top_k.steps.candidates].index(top_k.names["found"].token_id) == 5
    assert (f"{top_k.names['found'].after_temperature:.2f}", top_k.names["found"].cut_by) == ("0.08", "top_k")
    assert (top_k.names["heard"].cut_by, top_k.steps.candidates[6].after_temperature < 0.01) == (None, True)
    unfiltered = top_k.run.cells[0].tokens[21]
    assert (unfiltered.text, unfiltered.trace and unfiltered.trace.draw) == (" could", top_k.steps.draw)
    assert (top_p.steps.candidates_left, top_p.names["a"].final, top_p.names["something"].cut_by) == (1, 1.0, "top_p")
    assert 800 < 1 / top_p.names["something"].after_temperature < 850
    assert [cell.text.count("something") for cell in top_p.run.cells] == [1, 0, 0]


@pytest.mark.slow
def test_the_tour_text_about_facts_and_what_if_is_true(tour: dict[str, FinishedStep]) -> None:
    fact, story = tour["A fact needs no dice"], tour["What if, without asking again"]
    for index, cell in enumerate(fact.run.cells):
        trace = next(token.trace for token in cell.tokens if token.text == "7")
        assert trace is not None
        assert filter_steps(trace, fact.run.effective_sampling(index)).candidates[0].after_temperature > 0.999
    assert story.cell.traces is not None
    recorded = story.run.effective_sampling(0)
    narrow = what_if(story.cell.traces, recorded, SamplingParams(temperature=1.0, top_p=0.5, top_k=0))
    assert [story.cell.tokens[i].text for i in narrow.impossible] == [" can", " And"]
    hot = what_if(story.cell.traces, recorded, SamplingParams(temperature=2.0, top_p=1.0, top_k=0))
    assert (hot.impossible, hot.first_difference) == ((), 7)
