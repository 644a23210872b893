"""What came of a grid: the answer of every cell, token by token, and all that is needed to ask again.

A Run checks itself, since it may come from a file. Knows no backend, no files and no web.
"""

from __future__ import annotations

import base64
import binascii
import math
import uuid
from datetime import datetime, timezone
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from mllama_demo.backend.base import FinishReason, Timings
from mllama_demo.explore.grid import Grid
from mllama_demo.images import ImageLimits, LoadedImage, load_image
from mllama_demo.sampling import RECORDED_CANDIDATES, SamplingParams, TokenTrace

FORMAT = "mllama-demo exploration"
# Answers that ended by themselves, so that a repetition ends there too.
COMPLETE: frozenset[str] = frozenset({"end_of_turn", "stop_string", "max_tokens", "context_full"})


def _check_trace(trace: TokenTrace) -> TokenTrace:
    """Raises ValueError where a record contradicts itself."""
    count = len(trace.token_ids)
    if not 1 <= count <= RECORDED_CANDIDATES or len(trace.logits) != count or len(set(trace.token_ids)) != count:
        raise ValueError(f"a trace has 1 to {RECORDED_CANDIDATES} different token_ids and as many logits")
    if any(before < after for before, after in pairwise(trace.logits)):
        raise ValueError("the logits of a trace descend")
    if trace.draw is not None and not 0 <= trace.draw < 1:
        raise ValueError("draw is at least 0 and below 1")
    if not 1 <= trace.after_top_p <= trace.after_top_k or min(trace.token_ids) < 0 or trace.chosen < 0:
        raise ValueError("after_top_p is from 1 to after_top_k, and token ids are not negative")
    # The sum over a vocabulary is no less than over a part of it; some slack for rounding.
    if trace.log_mass < trace.logits[0] - 1e-6:
        raise ValueError("log_mass is no less than the likeliest logit")
    whole = trace.whole
    if whole is not None and (whole.size < max(count, trace.after_top_k) or not 0 <= whole.chosen_rank < whole.size):
        raise ValueError("the whole vocabulary is larger than what is left of it, and holds the chosen token")
    return trace


def _decode(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise ValueError("it is not base64") from None


Base64 = Annotated[
    bytes, BeforeValidator(_decode), PlainSerializer(lambda data: base64.b64encode(data).decode(), str, when_used="json")
]


class _Record(BaseModel):
    """Taken as it stands: "5" is no number, infinity none either, and nothing is there that nobody knows."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Token(_Record):
    """One generated token. id: -1 where a server tells text alone. text: what became certain with it. trace: None where the
    backend tells no probabilities."""

    id: int = Field(ge=-1)
    text: str
    trace: Annotated[TokenTrace, AfterValidator(_check_trace)] | None = None


class Cell(_Record):
    """One answer of a grid. outcome: how it ended, None while it has not been run. error: why it has no proper answer."""

    temperature: float
    top_p: float
    top_k: int
    seed: int
    outcome: FinishReason | None = None
    error: str | None = None
    text: str = ""
    tokens: tuple[Token, ...] = ()
    prompt_tokens: Annotated[int, Field(ge=0)] = 0
    timings: Timings | None = None

    @model_validator(mode="after")
    def _tokens_spell_the_text(self) -> Cell:
        if not self.text.startswith("".join(token.text for token in self.tokens)):
            raise ValueError("the texts of the tokens, one after another, must be the beginning of the text")
        return self

    @property
    def complete(self) -> bool:
        """Whether there is an answer to measure: one that was neither stopped nor failed."""
        return self.outcome in COMPLETE

    @property
    def traces(self) -> tuple[TokenTrace, ...] | None:
        """The record of every token; None when one is missing."""
        found = tuple(token.trace for token in self.tokens if token.trace is not None)
        return found if found and len(found) == len(self.tokens) else None

    @property
    def tokens_per_second(self) -> float | None:
        return None if self.timings is None else self.timings.tokens_per_second(len(self.tokens))

    def label(self) -> str:
        """Its values in words."""
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}, top_k {self.top_k}, seed {self.seed}"


class RunImage(_Record):
    """The picture of a run, with its file as it came."""

    name: str
    format: Literal["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    data: Base64 = Field(repr=False)

    @classmethod
    def of(cls, image: LoadedImage) -> RunImage:
        size = {"width": image.width, "height": image.height}
        return cls.model_validate(
            {"name": image.name, "format": image.format, "digest": image.digest, **size, "data": image.data}, strict=True
        )

    @property
    def media_type(self) -> str:
        return f"image/{self.format.lower()}"

    def load(self, limits: ImageLimits) -> LoadedImage:
        """Through the one door for images. Raises ImageError."""
        return load_image(self.data, self.name, limits)


class Run(_Record):
    """A grid and its answers, one cell for each of grid.cells(), in that order.

    max_top_k: what the backend chose among at most, see SamplingParams.top_k_within. repeatable: whether its seeds count.
    versions: of the programs that took part.
    """

    format: Literal["mllama-demo exploration"] = FORMAT
    version: Literal[1] = 1
    id: str = Field(default_factory=lambda: uuid.uuid4().hex, pattern="^[0-9a-f]{32}$")
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(timezone.utc).replace(microsecond=0))
    grid: Grid
    image: RunImage | None
    cells: tuple[Cell, ...]
    model: str = Field(max_length=500)
    backend: str = Field(max_length=100)
    device: str = Field(max_length=100)
    max_top_k: int | None = None
    repeatable: bool = True
    system_prompt: str = Field("", max_length=10_000)
    versions: dict[str, str] = Field(default_factory=dict, max_length=20)

    @model_validator(mode="after")
    def _cells_are_those_of_the_grid(self) -> Run:
        wanted = self.grid.cells()
        if len(self.cells) != len(wanted):
            raise ValueError(f"the grid has {len(wanted)} cells, and the run {len(self.cells)}")
        for index, (cell, values) in enumerate(zip(self.cells, wanted, strict=True)):
            if (cell.temperature, cell.top_p, cell.top_k, cell.seed) != (
                values.temperature,
                values.top_p,
                values.top_k,
                values.seed,
            ):
                raise ValueError(f"cell {index} has {cell.label()}, which is not what the grid has there")
            if len(cell.tokens) > values.max_tokens:
                raise ValueError(f"cell {index} has more tokens than max_tokens")
        return self

    def sampling(self, index: int) -> SamplingParams:
        """The values of a cell as its sampler had them: with top_k as the backend could follow it."""
        asked = self.grid.cells()[index]
        if asked.greedy or asked.top_k_within(self.max_top_k) == asked.top_k:
            return asked
        return SamplingParams(
            asked.temperature, asked.top_p, asked.top_k_within(self.max_top_k), asked.max_tokens, asked.seed, asked.stop
        )

    @property
    def title(self) -> str:
        """Of the grid, or else the beginning of its prompt."""
        words = " ".join(self.grid.prompt.split())
        return self.grid.title or (words if len(words) <= 60 else words[:59] + "…") or "A picture"

    @property
    def failed(self) -> int:
        return sum(cell.outcome == "error" for cell in self.cells)


def blank(values: SamplingParams) -> Cell:
    """A cell that has not been run."""
    assert values.seed is not None and math.isfinite(values.temperature)
    return Cell(temperature=values.temperature, top_p=values.top_p, top_k=values.top_k, seed=values.seed)
