"""What is explored: one prompt, and every combination of some temperatures, top_p, top_k and seeds.

Pure values with their bounds. Knows no backend, no files and no web.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mllama_demo.errors import BadRequest
from mllama_demo.sampling import BOUNDS, SamplingParams

Axis = Literal["temperature", "top_p", "top_k", "seed"]
AXES: tuple[Axis, ...] = ("temperature", "top_p", "top_k", "seed")
MAX_CELLS = 144
MAX_TOKENS = 36_864  # of all cells together; a recorded token takes about 2 KB in a kept run
MAX_PROMPT_LENGTH = 20_000
MAX_TITLE_LENGTH = 120


class Grid(BaseModel):
    """The cells are the product of the four lists, seeds varying fastest. Refuses with BadRequest, naming the value.

    A single number stands for a list of one. Without seed each cell would have one of its own, so there is always one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(max_length=MAX_PROMPT_LENGTH)
    temperature: tuple[float, ...] = (BOUNDS["temperature"].default,)
    top_p: tuple[float, ...] = (BOUNDS["top_p"].default,)
    top_k: tuple[int, ...] = (int(BOUNDS["top_k"].default),)
    seed: tuple[int, ...] = (1,)
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    title: str = Field("", max_length=MAX_TITLE_LENGTH)

    @field_validator(*AXES, mode="before")
    @classmethod
    def _within_bounds(cls, value: Any, info: Any) -> tuple[Any, ...]:
        name = info.field_name
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if not values:
            raise BadRequest(f"{name} is an empty list; give at least one value.")
        for one in values:
            BOUNDS[name].check(name, one)
        if name != "temperature" and name != "top_p":
            values = [int(one) for one in values]
        for one in values:
            if values.count(one) > 1:
                raise BadRequest(f"{name} has {one} twice; two equal cells tell no more than one.")
        return tuple(values)

    @field_validator("max_tokens", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> int:
        BOUNDS["max_tokens"].check("max_tokens", value)
        return int(value)

    @field_validator("stop", mode="before")
    @classmethod
    def _strings(cls, value: Any) -> tuple[str, ...]:
        stop = (value,) if isinstance(value, str) else value
        if not isinstance(stop, (list, tuple)):
            raise BadRequest(f"stop must be a list of strings, got {value!r:.80}.")
        return SamplingParams(stop=tuple(stop)).stop

    @model_validator(mode="after")
    def _affordable(self) -> Grid:
        if self.count > MAX_CELLS:
            lists = " × ".join(f"{len(getattr(self, axis))} {axis}" for axis in AXES)
            raise BadRequest(f"The grid has {self.count} cells ({lists}); at most {MAX_CELLS} are allowed.")
        if self.count * self.max_tokens > MAX_TOKENS:
            raise BadRequest(
                f"The grid may take {self.count} cells × {self.max_tokens} max_tokens = {self.count * self.max_tokens:,} tokens; "
                f"at most {MAX_TOKENS:,} are allowed, so max_tokens {MAX_TOKENS // self.count} would do."
            )
        return self

    @property
    def count(self) -> int:
        """How many cells."""
        return math.prod(len(getattr(self, axis)) for axis in AXES)

    def cells(self) -> tuple[SamplingParams, ...]:
        """The sampling values of every cell, in order."""
        combinations = product(self.temperature, self.top_p, self.top_k, self.seed)
        return tuple(SamplingParams(t, p, k, self.max_tokens, seed, self.stop) for t, p, k, seed in combinations)

    def varied(self) -> tuple[Axis, ...]:
        """The axes with more than one value."""
        return tuple(axis for axis in AXES if len(getattr(self, axis)) > 1)

    def compared(self) -> tuple[Axis, ...]:
        """The axes with more than one value, without the seed: what answers are grouped by."""
        axes: tuple[Axis, ...] = ("temperature", "top_p", "top_k")
        return tuple(axis for axis in axes if len(getattr(self, axis)) > 1)

    def notes(self) -> tuple[str, ...]:
        """What a person may not expect of these values."""
        greedy = [cell for cell in self.cells() if cell.greedy]
        if len({(cell.temperature, cell.top_k) for cell in greedy}) == len(greedy):
            return ()
        return (f"{len(greedy)} cells are greedy (temperature 0 or top_k 1): seed and top_p make no difference to them.",)


def make_grid(values: dict[str, Any]) -> Grid:
    """A Grid from untrusted keys and values. Raises BadRequest with a sentence on the first thing that is wrong."""
    allowed = list(Grid.model_fields)
    for key in values:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(allowed)}."
            raise BadRequest(f"A grid has no {key!r:.80}: {hint}")
    try:
        return Grid.model_validate(values)
    except ValidationError as error:
        raise BadRequest(first_problem(error)) from None


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's findings as one sentence."""
    found = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, found["loc"]))
    shown = "" if found["type"] == "missing" else f" (got {found['input']!r:.80})"
    return f"{place}: {found['msg']}{shown}." if place else f"{found['msg']}."


# --- before running ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """How fast a backend has been, in seconds. prefill: to read the prompt. step: one decode step of all slots."""

    prefill_s: float
    step_s: float


@dataclass(frozen=True)
class Estimate:
    """What a grid will take at most. tokens: if every answer is as long as it may be. prefills: how often the prompt is read.
    seconds: None while the backend's pace is unknown."""

    cells: int
    tokens: int
    prefills: int
    seconds: float | None


def estimate(grid: Grid, slots: int, *, fork: bool, pace: Pace | None, wait_s: float | None = 0.0) -> Estimate:
    """slots: of the backend. fork: whether it reads a shared prompt once. wait_s: until a first slot is free, None if unknown.

    Slots decode together, so a wave of `slots` cells takes as long as its longest answer. A prefill holds up the others.
    """
    waves = math.ceil(grid.count / slots)
    prefills = 1 if fork else grid.count
    seconds = (
        None if pace is None or wait_s is None else wait_s + prefills * pace.prefill_s + waves * grid.max_tokens * pace.step_s
    )
    return Estimate(grid.count, grid.count * grid.max_tokens, prefills, seconds)


def measured_pace(timings: Sequence[tuple[float, float, float | None, int]]) -> Pace | None:
    """The pace that finished cells show; None before any of them has two tokens.

    timings: of each cell waited_s, decode_s, ttft_s and completion tokens, see base.Timings. The prefill is the longest, since
    those after the first may have been spared.
    """
    steps = [decode / (tokens - 1) for _, decode, _, tokens in timings if tokens > 1]
    prefills = [ttft - waited for waited, _, ttft, _ in timings if ttft is not None]
    if not steps or not prefills:
        return None
    return Pace(max(0.0, max(prefills)), sum(steps) / len(steps))
