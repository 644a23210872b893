"""Runs to test with, made by the real sampler over synthetic logits: as good as a model's, and there at once."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from mllama_demo.engine.base import Timings
from mllama_demo.explore.edits import with_branch
from mllama_demo.explore.filter_steps import forced_token
from mllama_demo.explore.grid import Grid, make_grid
from mllama_demo.explore.results import Cell, Run, RunImage, Token, empty_cell
from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.sampling import SamplingParams, TokenSampler, TokenTrace

WORDS = ("a", "dog", "cat", "on", "the", "mat", "sat", "red", "sun", "sky")
VOCABULARY = 200


def picture(colour: str = "teal", name: str = "a picture.png") -> LoadedImage:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return load_image(file.getvalue(), name)


def logits_at(step: int, size: int = VOCABULARY) -> np.ndarray:
    """float32, as a model's are."""
    return np.random.default_rng(step).normal(scale=2.5, size=size).astype(np.float32)


def word(token_id: int) -> str:
    return f"{WORDS[token_id % len(WORDS)]}{token_id} "


def answer(values: SamplingParams, tokens: int) -> Cell:
    """A finished cell whose every token was drawn with these values."""
    sampler = TokenSampler(values, trace=True)
    drawn = [sampler.sample(logits_at(step)) for step in range(tokens)]
    made = tuple(Token(id=token_id, text=word(token_id), trace=trace) for token_id, trace in drawn)
    known: dict[str, Any] = {
        "outcome": "max_tokens",
        "tokens": made,
        "text": "".join(token.text for token in made),
        "prompt_tokens": 7,
        "timings": Timings(0.25, 0.5, 1.0, 1.5),
    }
    return empty_cell(values).model_copy(update=known)


def run_of(grid: Grid | None = None, image: LoadedImage | None = None, **more: Any) -> Run:
    """A complete run of the grid, by default of two temperatures, two top_p and two seeds with a picture."""
    if grid is None:
        values = {"temperature": [0.5, 1.5], "top_p": [0.8, 1.0], "seed": [1, 2], "max_tokens": 6}
        grid, image = make_grid({"prompt": "What is it?", **values}), image or picture()
    cells = tuple(answer(values, grid.max_tokens) for values in grid.cells())
    return Run(
        grid=grid,
        image=None if image is None else RunImage.from_loaded(image),
        **{"cells": cells, "model": "a model", "backend": "by hand", "device": "cpu", "versions": {"numpy": "2"}, **more},
    )


def branched(run: Run, parent: int = 0, position: int = 1, rank: int = 5) -> Run:
    """The run with one more branch: another candidate in the place of the parent's token, and tokens drawn after it."""
    cell, values = run.answer(parent), run.effective_sampling(parent)
    chosen = forced_token(cell, position, _trace(cell, position).token_ids[rank])
    chosen = chosen.model_copy(update={"text": word(chosen.id)})
    sampler = TokenSampler(values, trace=True, skip=position + 1)
    drawn = [sampler.sample(logits_at(100 + step)) for step in range(position + 1, len(cell.tokens))]
    rest = tuple(Token(id=token_id, text=word(token_id), trace=trace) for token_id, trace in drawn)
    tokens = (*cell.tokens[:position], chosen, *rest)
    made = cell.model_copy(update={"tokens": tokens, "text": "".join(token.text for token in tokens)})
    return with_branch(run, parent, position, made)


def _trace(cell: Cell, position: int) -> TokenTrace:
    trace = cell.tokens[position].trace
    assert trace is not None
    return trace


def saying(run: Run, *texts: str) -> Run:
    """The same run with other answers, and no records; None at the end leaves the other cells as they are."""
    cells = list(run.cells)
    for index, text in enumerate(texts):
        cells[index] = cells[index].model_copy(update={"text": text, "tokens": (Token(id=1, text=text),)})
    return run.model_copy(update={"cells": tuple(cells)})


def failed(cell: Cell, error: str = "It broke.") -> Cell:
    values = SamplingParams(cell.temperature, cell.top_p, cell.top_k, 1, cell.seed)
    return empty_cell(replace(values)).model_copy(update={"outcome": "error", "error": error})


HOSTILE_TEXT = """Say "it's" `whoami` $HOME ${IMAGE} \\n @IMAGE@ <b>&amp;</b>
JSON
JSONL
=1+1 äöü 犬"""


def hostile_run(**more: Any) -> Run:
    """A run whose every text tries to break out of something."""
    grid = make_grid(
        {"prompt": HOSTILE_TEXT, "stop": ["@IMAGE@", "$x"], "seed": [5], "max_tokens": 4, "title": "<script>x</script>"}
    )
    return saying(run_of(grid, picture(name="a 'b' $c; d.png"), **more), "=cmd() <img src=x onerror=y>")
