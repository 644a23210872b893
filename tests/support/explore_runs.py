"""Explore runs for tests, made by the real sampler over synthetic logits, without a model."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from mllama_demo.engine.base import Timings
from mllama_demo.engine.token_sampler import TokenSampler, TokenTrace
from mllama_demo.explore.edits import with_branch
from mllama_demo.explore.filter_steps import forced_token
from mllama_demo.explore.grid import Grid, make_grid
from mllama_demo.explore.results import Cell, Run, RunImage, Token, empty_cell
from mllama_demo.explore.run_store import RunStore
from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.sampling import SamplingParams
from mllama_demo.storage.database import Database
from mllama_demo.storage.explore_runs import ExploreRuns
from mllama_demo.storage.run_shares import RunShares
from tests.support.samplers import sample

WORDS = ("a", "dog", "cat", "on", "the", "mat", "sat", "red", "sun", "sky")
VOCABULARY = 200


def make_image(colour: str = "teal", name: str = "a picture.png") -> LoadedImage:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return load_image(file.getvalue(), name)


def logits_at(step: int, size: int = VOCABULARY) -> np.ndarray:
    """float32, like the logits of a model."""
    return np.random.default_rng(step).normal(scale=2.5, size=size).astype(np.float32)


def token_text(token_id: int) -> str:
    return f"{WORDS[token_id % len(WORDS)]}{token_id} "


def sampled_cell(values: SamplingParams, tokens: int) -> Cell:
    """A finished cell whose tokens were sampled with these values."""
    sampler = TokenSampler(values, trace=True)
    drawn = [sample(sampler, logits_at(step)) for step in range(tokens)]
    made = tuple(Token(id=token_id, text=token_text(token_id), trace=trace) for token_id, trace in drawn)
    known: dict[str, Any] = {
        "outcome": "max_tokens",
        "tokens": made,
        "text": "".join(token.text for token in made),
        "prompt_tokens": 7,
        "timings": Timings(0.25, 0.5, 1.0, 1.5),
    }
    return empty_cell(values).model_copy(update=known)


def make_run(grid: Grid | None = None, image: LoadedImage | None = None, **more: Any) -> Run:
    """A complete run. The default grid has two temperatures, two top_p, two seeds and an image."""
    if grid is None:
        values = {"temperature": [0.5, 1.5], "top_p": [0.8, 1.0], "seed": [1, 2], "max_tokens": 6}
        grid, image = make_grid({"prompt": "What is it?", **values}), image or make_image()
    cells = tuple(sampled_cell(values, grid.max_tokens) for values in grid.cells())
    return Run(
        grid=grid,
        image=None if image is None else RunImage.from_loaded(image),
        **{"cells": cells, "model": "a model", "backend": "a test", "device": "cpu", "versions": {"numpy": "2"}, **more},
    )


def with_sampled_branch(run: Run, parent: int = 0, position: int = 1, rank: int = 5) -> Run:
    """The run with one more branch: a forced token with this rank at the position, then sampled tokens."""
    cell, values = run.answer(parent), run.effective_sampling(parent)
    chosen = forced_token(cell, position, _trace(cell, position).token_ids[rank])
    chosen = chosen.model_copy(update={"text": token_text(chosen.id)})
    sampler = TokenSampler(values, trace=True, skip=position + 1)
    drawn = [sample(sampler, logits_at(100 + step)) for step in range(position + 1, len(cell.tokens))]
    rest = tuple(Token(id=token_id, text=token_text(token_id), trace=trace) for token_id, trace in drawn)
    tokens = (*cell.tokens[:position], chosen, *rest)
    made = cell.model_copy(update={"tokens": tokens, "text": "".join(token.text for token in tokens)})
    return with_branch(run, parent, position, made)


def _trace(cell: Cell, position: int) -> TokenTrace:
    trace = cell.tokens[position].trace
    assert trace is not None
    return trace


def run_store(database: Database, limit: int = 200) -> RunStore:
    runs = ExploreRuns(database, limit)
    return RunStore(runs, RunShares(runs))


def with_texts(run: Run, *texts: str) -> Run:
    """The run with other texts, without traces. Cells beyond the texts do not change."""
    cells = list(run.cells)
    for index, text in enumerate(texts):
        cells[index] = cells[index].model_copy(update={"text": text, "tokens": (Token(id=1, text=text),)})
    return run.model_copy(update={"cells": tuple(cells)})


def failed_cell(cell: Cell, error: str = "It broke.") -> Cell:
    values = SamplingParams(cell.temperature, cell.top_p, cell.top_k, 1, cell.seed)
    return empty_cell(values).model_copy(update={"outcome": "error", "error": error})


HOSTILE_TEXT = """Say "it's" `whoami` $HOME ${IMAGE} \\n @IMAGE@ <b>&amp;</b>
JSON
JSONL
=1+1 äöü 犬"""


def hostile_run(**more: Any) -> Run:
    """A run whose texts contain markup, shell code, placeholders and formulas."""
    grid = make_grid(
        {"prompt": HOSTILE_TEXT, "stop": ["@IMAGE@", "$x"], "seed": [5], "max_tokens": 4, "title": "<script>x</script>"}
    )
    return with_texts(make_run(grid, make_image(name="a 'b' $c; d.png"), **more), "=cmd() <img src=x onerror=y>")
