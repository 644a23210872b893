"""The grid: one prompt, and every combination of some temperatures, top_p, top_k and seeds. Also the estimate of its cost.

Immutable values that check their bounds. This module knows no backend, no files and no web.
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
MAX_TOKENS = 36_864  # of all cells together; a recorded token takes about 2 KB in a saved run
MAX_PROMPT_LENGTH = 20_000
MAX_TITLE_LENGTH = 120
MAX_HISTORY_TURNS = 200
MAX_HISTORY_LENGTH = 200_000  # characters of all turns together


class Turn(BaseModel):
    """One message of a conversation before the prompt.

    Attributes:
        role: user or assistant.
        image: whether the image of the run belongs to this message; otherwise it belongs to the prompt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["user", "assistant"]
    text: str
    image: bool = False


class Grid(BaseModel):
    """A prompt and four lists of sampling values. The cells are the product of the lists; seeds vary fastest.

    A single number stands for a list of one. There is always a seed, so that each cell can be repeated.
    Raises BadRequest, which names the wrong value.

    Attributes:
        history: the conversation before the prompt, oldest message first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(max_length=MAX_PROMPT_LENGTH)
    temperature: tuple[float, ...] = (BOUNDS["temperature"].default,)
    top_p: tuple[float, ...] = (BOUNDS["top_p"].default,)
    top_k: tuple[int, ...] = (int(BOUNDS["top_k"].default),)
    seed: tuple[int, ...] = (1,)
    max_tokens: int = Field(64, ge=1, le=int(BOUNDS["max_tokens"].maximum))
    stop: tuple[str, ...] = ()
    title: str = Field("", max_length=MAX_TITLE_LENGTH)
    history: tuple[Turn, ...] = Field((), max_length=MAX_HISTORY_TURNS)

    @field_validator(*AXES, mode="before")
    @classmethod
    def _check_axis(cls, value: Any, info: Any) -> tuple[Any, ...]:
        name = info.field_name
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if not values:
            raise BadRequest(f"{name} is an empty list; give at least one value.")
        for one in values:
            BOUNDS[name].check(name, one)
        if name not in ("temperature", "top_p"):
            values = [int(one) for one in values]
        for one in values:
            if values.count(one) > 1:
                raise BadRequest(f"{name} has {one} twice; two equal cells tell no more than one.")
        return tuple(values)

    @field_validator("max_tokens", mode="before")
    @classmethod
    def _check_max_tokens(cls, value: Any) -> int:
        BOUNDS["max_tokens"].check("max_tokens", value)
        return int(value)

    @field_validator("stop", mode="before")
    @classmethod
    def _check_stop(cls, value: Any) -> tuple[str, ...]:
        stop = (value,) if isinstance(value, str) else value
        if not isinstance(stop, (list, tuple)):
            raise BadRequest(f"stop must be a list of strings, got {value!r:.80}.")
        return SamplingParams(stop=tuple(stop)).stop

    @field_validator("history")
    @classmethod
    def _check_history(cls, history: tuple[Turn, ...]) -> tuple[Turn, ...]:
        length = sum(len(turn.text) for turn in history)
        if length > MAX_HISTORY_LENGTH:
            raise BadRequest(f"history has {length:,} characters; at most {MAX_HISTORY_LENGTH:,} are allowed.")
        if sum(turn.image for turn in history) > 1 or any(turn.image and turn.role != "user" for turn in history):
            raise BadRequest("history has more than one image, or the image of an answer; one user turn may have the image.")
        return history

    @model_validator(mode="after")
    def _check_size(self) -> Grid:
        count = self.cell_count
        if count > MAX_CELLS:
            lists = " × ".join(f"{len(getattr(self, axis))} {axis}" for axis in AXES)
            raise BadRequest(f"The grid has {count} cells ({lists}); at most {MAX_CELLS} are allowed.")
        if count * self.max_tokens > MAX_TOKENS:
            raise BadRequest(
                f"The grid may take {count} cells × {self.max_tokens} max_tokens = {count * self.max_tokens:,} tokens; "
                f"at most {MAX_TOKENS:,} are allowed, so max_tokens {MAX_TOKENS // count} would do."
            )
        return self

    @property
    def cell_count(self) -> int:
        return math.prod(len(getattr(self, axis)) for axis in AXES)

    def cells(self) -> tuple[SamplingParams, ...]:
        """The sampling values of every cell, in order."""
        combinations = product(self.temperature, self.top_p, self.top_k, self.seed)
        return tuple(SamplingParams(t, p, k, self.max_tokens, seed, self.stop) for t, p, k, seed in combinations)

    def varied_axes(self) -> tuple[Axis, ...]:
        """The axes with more than one value."""
        return tuple(axis for axis in AXES if len(getattr(self, axis)) > 1)

    def grouping_axes(self) -> tuple[Axis, ...]:
        """The axes that answers are grouped by: those with more than one value, without the seed."""
        return tuple(axis for axis in self.varied_axes() if axis != "seed")

    def notes(self) -> tuple[str, ...]:
        """Sentences about consequences of these values that a user may not expect."""
        greedy = [cell for cell in self.cells() if cell.greedy]
        if len({(cell.temperature, cell.top_k) for cell in greedy}) == len(greedy):
            return ()
        return (f"{len(greedy)} cells are greedy (temperature 0 or top-k 1): seed and top-p make no difference to them.",)


def make_grid(values: dict[str, Any]) -> Grid:
    """Returns a Grid from untrusted keys and values. Raises BadRequest, which describes the first error."""
    allowed = list(Grid.model_fields)
    for key in values:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(allowed)}."
            raise BadRequest(f"A grid has no {key!r:.80}: {hint}")
    try:
        return Grid.model_validate(values)
    except ValidationError as error:
        raise BadRequest(first_validation_message(error)) from None


def first_validation_message(error: ValidationError) -> str:
    """The first of pydantic's validation errors as one sentence."""
    found = error.errors(include_url=False, include_context=False)[0]
    location = ".".join(map(str, found["loc"]))
    shown = "" if found["type"] == "missing" else f" (got {found['input']!r:.80})"
    return f"{location}: {found['msg']}{shown}." if location else f"{found['msg']}."


# --- estimate ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BackendSpeed:
    """Measured durations of a backend, in seconds.

    Attributes:
        prefill_s: one prefill of the prompt.
        step_s: one decode step of all slots.
    """

    prefill_s: float
    step_s: float


@dataclass(frozen=True)
class Estimate:
    """An upper bound for the cost of a grid.

    Attributes:
        cells: number of cells.
        tokens: number of tokens if every answer is as long as max_tokens.
        prefills: how often the prompt is read.
        seconds: duration; None while the speed of the backend is unknown.
    """

    cells: int
    tokens: int
    prefills: int
    seconds: float | None

    def text(self) -> str:
        """One sentence for a user."""
        seconds = "" if self.seconds is None else f", about {self.seconds:.0f} s"
        reads = "once" if self.prefills == 1 else f"{self.prefills} times"
        return f"{self.cells} cells, {self.tokens:,} tokens at most{seconds}; the prompt is read {reads}."


def estimate(grid: Grid, slots: int, *, fork: bool, speed: BackendSpeed | None, wait_s: float | None = 0.0) -> Estimate:
    """Estimates the cost of a grid.

    Slots decode together, so a wave of `slots` cells takes as long as its longest answer. A prefill delays the other slots.

    Args:
        grid: what is to be generated.
        slots: the number of slots of the backend.
        fork: whether the backend reads a shared prompt only once.
        speed: of the backend, None if unknown.
        wait_s: until the first slot is free, None if unknown.
    """
    waves = math.ceil(grid.cell_count / slots)
    prefills = 1 if fork else grid.cell_count
    seconds = None
    if speed is not None and wait_s is not None:
        seconds = wait_s + prefills * speed.prefill_s + waves * grid.max_tokens * speed.step_s
    return Estimate(grid.cell_count, grid.cell_count * grid.max_tokens, prefills, seconds)


def measured_speed(timings: Sequence[tuple[float, float, float | None, int]]) -> BackendSpeed | None:
    """Computes the speed of a backend from finished cells. Returns None when no cell has two tokens.

    Args:
        timings: for each cell waited_s, decode_s, ttft_s (see base.Timings) and the number of completion tokens. The longest
            prefill counts, because later cells may have copied the prompt of the first.
    """
    steps = [decode / (tokens - 1) for _, decode, _, tokens in timings if tokens > 1]
    prefills = [ttft - waited for waited, _, ttft, _ in timings if ttft is not None]
    if not steps or not prefills:
        return None
    return BackendSpeed(max(0.0, max(prefills)), sum(steps) / len(steps))
