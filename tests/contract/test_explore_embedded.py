"""Exploring the embedded checkpoint: a shared prompt, a branch and a what-if are what separate requests make of them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.backend.base import GenerationRequest, TokenEvent
from mllama_demo.config import Settings
from mllama_demo.explore.command import main
from mllama_demo.explore.exchange import from_json
from mllama_demo.explore.explorer import Explorer
from mllama_demo.explore.grid import make_grid
from mllama_demo.explore.results import Run
from mllama_demo.explore.whatif import what_if
from mllama_demo.factory import make_backend
from mllama_demo.images import LoadedImage, load_image
from mllama_demo.sampling import SamplingParams

pytestmark = pytest.mark.timeout(900)
DOG = Path(__file__).resolve().parents[2] / "mllama_demo" / "ui" / "example_images" / "dog.png"
# Hot enough for answers to differ, so that sharing the wrong thing would show.
GRID = make_grid({"prompt": "What do you see?", "temperature": [0.0, 1.6, 2.0], "top_p": 1.0, "seed": [1, 2], "max_tokens": 16})


class Scene:
    """A loaded backend of three slots, so that six cells need their turns."""

    def __init__(self) -> None:
        settings, ready = Settings(device="cpu", batch_size=3, seq_len=256), threading.Event()
        self.backend, tokenizer = make_backend(settings, on_ready=ready.set)
        self.backend.start()
        assert ready.wait(300), self.backend.status().detail
        self.explorer = Explorer(self.backend, tokenizer, settings)
        self.image: LoadedImage = load_image(DOG.read_bytes(), "dog.png")

    def play(self, work: Any) -> Any:
        return asyncio.run(work)

    async def explore(self) -> tuple[Run, list[GenerationRequest]]:
        async with await self.explorer.start(GRID, self.image) as cells:
            await cells.wait()
            return cells.run(), list(cells._requests)

    async def tokens_of(self, request: GenerationRequest) -> list[int]:
        async with aclosing(self.backend.generate(request)) as events:
            return [event.token_id async for event in events if isinstance(event, TokenEvent)]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.backend.close()


@pytest.fixture(scope="module")
def explored(scene: Scene) -> tuple[Run, list[GenerationRequest]]:
    return scene.play(scene.explore())


def test_the_cells_say_what_separate_requests_with_their_seeds_say(scene: Scene, explored) -> None:
    run, requests = explored
    assert {cell.outcome for cell in run.cells} <= {"max_tokens", "end_of_turn"}
    assert len({cell.text for cell in run.cells}) > 2

    async def separately() -> list[list[int]]:
        alone = [replace(request, shared_prompt=False, id=f"alone {i}") for i, request in enumerate(requests)]
        return [await scene.tokens_of(request) for request in alone]

    assert [[token.id for token in cell.tokens] for cell in run.cells] == scene.play(separately())


def test_the_prompt_is_read_once(scene: Scene, explored) -> None:
    runner: Any = scene.backend._scheduler._runner  # type: ignore[union-attr]
    reads: list[int] = []
    read = runner._read_prompt
    runner._read_prompt = lambda *arguments: reads.append(1) or read(*arguments)
    other = make_grid({**GRID.model_dump(), "prompt": "What colour is it?"})

    async def explore() -> None:
        async with await scene.explorer.start(other, scene.image) as cells:
            await cells.wait()

    try:
        scene.play(explore())
    finally:
        del runner._read_prompt
    assert len(reads) == 1


def test_two_shared_prompts_and_a_third_without_a_picture_do_not_mix(scene: Scene) -> None:
    """More prompts than are kept, by turns: each answer is that of its own prompt."""
    prompts = [make_grid({**GRID.model_dump(), "prompt": text, "temperature": 1.6}) for text in ("What is it?", "Who?", "Where?")]

    async def all_at_once() -> tuple[list[Run], list[list[list[int]]]]:
        runs = [await scene.explorer.start(grid, scene.image if i else None) for i, grid in enumerate(prompts)]
        for cells in runs:
            await cells.wait()
        alone = [[replace(r, shared_prompt=False, id=f"{r.id} alone") for r in cells._requests] for cells in runs]
        expected = [[await scene.tokens_of(request) for request in requests] for requests in alone]
        return [cells.run() for cells in runs], expected

    runs, expected = scene.play(all_at_once())
    assert [[[token.id for token in cell.tokens] for cell in run.cells] for run in runs] == expected


def test_a_branch_with_the_answers_own_token_is_the_answer_and_with_another_goes_its_own_way(scene: Scene, explored) -> None:
    run, _ = explored
    index = max(range(len(run.cells)), key=lambda i: len(run.cells[i].tokens))
    cell, position = run.cells[index], 5

    async def branch(token_id: int) -> Any:
        async with await scene.explorer.branch(run, index, position, token_id, scene.image) as cells:
            await cells.wait()
            return cells.cells[0].result()

    same = scene.play(branch(cell.tokens[position].id))
    assert (same.text, same.outcome) == (cell.text, cell.outcome)
    assert [token.id for token in same.tokens] == [token.id for token in cell.tokens]
    trace = cell.tokens[position].trace
    assert trace is not None
    candidate = next(id for id in trace.token_ids if id != trace.chosen)
    other = scene.play(branch(candidate))
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
def test_what_if_tells_where_a_real_rerun_with_the_same_seed_goes_another_way(scene: Scene, explored, after: dict) -> None:
    run, requests = explored
    checked = 0
    for index, cell in enumerate(run.cells):
        before = run.sampling(index)
        assert cell.traces is not None
        params = SamplingParams(**{"top_p": 1.0, "max_tokens": 16, "seed": before.seed, **after})
        told = what_if(cell.traces, before, params)
        if told.first_unknown is not None:
            continue
        again = scene.play(scene.tokens_of(replace(requests[index], sampling=params, id=f"again {index} {after}")))
        ids = [token.id for token in cell.tokens]
        differs = next((i for i, (a, b) in enumerate(zip(ids, again, strict=False)) if a != b), None)
        assert differs == told.first_difference
        checked += 1
    assert checked >= 3


def test_the_verb_runs_a_grid_and_writes_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "grid.yaml").write_text(
        f"prompt: What do you see?\nimage: {json.dumps(str(DOG))}\ntemperature: [0, 1.8]\nseed: [1, 2]\nmax_tokens: 6\n",
        encoding="utf-8",
    )
    out, page = tmp_path / "run.json", tmp_path / "report.html"
    options = ["--output", str(out), "--html", str(page), "--seq-len", "256", "--device", "cpu", "--batch-size", "2"]
    assert main(["--spec", str(tmp_path / "grid.yaml"), *options]) == 0
    run = from_json(out.read_bytes())
    assert (run.grid.temperature, len(run.cells), run.failed) == ((0.0, 1.8), 4, 0)
    assert run.image is not None
    assert run.image.data == DOG.read_bytes()
    told = capsys.readouterr()
    assert "the prompt is read once" in told.err
    assert run.cells[0].text[:20] in told.out
    assert "dog.png" in page.read_text(encoding="utf-8")
