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

from mllama_demo.engine.base import FinishReason, Timings
from mllama_demo.errors import NotFound
from mllama_demo.explore.grid import MAX_TOKENS, Grid
from mllama_demo.images.loading import ImageLimits, LoadedImage, load_image
from mllama_demo.sampling import RECORDED_CANDIDATES, SamplingParams, TokenTrace

FORMAT = "mllama-demo exploration"
VERSION = 2  # 1 had no branches
MAX_BRANCHES = 64
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

    def has(self, values: SamplingParams) -> bool:
        """Whether these are its values."""
        wanted = (values.temperature, values.top_p, values.top_k, values.seed)
        return (self.temperature, self.top_p, self.top_k, self.seed) == wanted

    def label(self) -> str:
        """Its values in words."""
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}, top_k {self.top_k}, seed {self.seed}"


class Branch(_Record):
    """An answer that leaves another one at a token which somebody chose instead of the one drawn there.

    number: what it is called within its run, from 1. parent: the answer that it leaves, as an index for Run.answer. position: of
    the chosen token, from 0. cell: the whole answer, with the beginning that it shares.
    """

    number: int = Field(ge=1, le=1_000_000)
    parent: int = Field(ge=0)
    position: int = Field(ge=0)
    token_id: int = Field(ge=0)
    cell: Cell

    @model_validator(mode="after")
    def _has_the_chosen_token(self) -> Branch:
        if self.position >= len(self.cell.tokens) or self.cell.tokens[self.position].id != self.token_id:
            raise ValueError("a branch has the token that was chosen for it in its place")
        return self

    @property
    def token(self) -> str:
        """The chosen token's text, or its id where it has none of its own."""
        return self.cell.tokens[self.position].text or f"token {self.token_id}"


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
    """A grid and its answers, one cell for each of grid.cells(), in that order, and the branches that leave them.

    An answer's index counts the cells; a branch's goes on from there by its number, and stays when another branch is deleted.
    max_top_k: what the backend chose among at most, see SamplingParams.top_k_within. repeatable: whether its seeds count.
    versions: of the programs that took part.
    """

    format: Literal["mllama-demo exploration"] = FORMAT
    version: Annotated[Literal[1, 2], AfterValidator(lambda _: VERSION)] = VERSION
    id: str = Field(default_factory=lambda: uuid.uuid4().hex, pattern="^[0-9a-f]{32}$")
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(timezone.utc).replace(microsecond=0))
    grid: Grid
    image: RunImage | None
    cells: tuple[Cell, ...]
    branches: tuple[Branch, ...] = Field(default_factory=tuple, max_length=MAX_BRANCHES)
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
            if not cell.has(values):
                raise ValueError(f"cell {index} has {cell.label()}, which is not what the grid has there")
            if len(cell.tokens) > values.max_tokens:
                raise ValueError(f"cell {index} has more tokens than max_tokens")
        return self

    @model_validator(mode="after")
    def _branches_leave_answers_that_are_there(self) -> Run:
        numbers = [branch.number for branch in self.branches]
        if any(before >= after for before, after in pairwise(numbers)):
            raise ValueError("the numbers of the branches ascend")
        for branch in self.branches:
            index = self.index_of(branch)
            if branch.parent >= index or branch.parent not in self.indices:
                raise ValueError(f"branch {branch.number} leaves an answer that is not there")
            if not branch.cell.has(self.asked(index)):
                raise ValueError(f"branch {branch.number} has {branch.cell.label()}, which the answer it leaves has not")
            if len(branch.cell.tokens) > self.grid.max_tokens:
                raise ValueError(f"branch {branch.number} has more tokens than max_tokens")
        if self.branches and self.tokens > MAX_TOKENS:
            raise ValueError(f"a run has at most {MAX_TOKENS:,} tokens")
        return self

    # --- answers by their index ------------------------------------------------------------------------------------------

    @property
    def indices(self) -> frozenset[int]:
        """Of every answer that there is."""
        return frozenset([*range(len(self.cells)), *map(self.index_of, self.branches)])

    def index_of(self, branch: Branch) -> int:
        return len(self.cells) + branch.number - 1

    def branch(self, index: int) -> Branch | None:
        """None for a cell of the grid. Raises NotFound for what is neither."""
        if 0 <= index < len(self.cells):
            return None
        for branch in self.branches:
            if self.index_of(branch) == index:
                return branch
        if index < 0 or not self.branches:
            raise NotFound(f"The run has {len(self.cells)} cells, so there is no cell {index + 1}.")
        raise NotFound(f"The run has no branch {index - len(self.cells) + 1}.")

    def answer(self, index: int) -> Cell:
        """Raises NotFound."""
        branch = self.branch(index)
        return self.cells[index] if branch is None else branch.cell

    def name(self, index: int) -> str:
        """What people call the answer: 3, or B1 for the first branch. Raises NotFound."""
        branch = self.branch(index)
        return str(index + 1) if branch is None else f"B{branch.number}"

    def origin(self, branch: Branch) -> str:
        """Where it leaves, in words."""
        what = "cell" if branch.parent < len(self.cells) else "branch"
        token = branch.token.strip() or branch.token
        return f"from {what} {self.name(branch.parent)}, with “{token}” as token {branch.position + 1}"

    def asked(self, index: int) -> SamplingParams:
        """The values of an answer as the grid has them; those of a branch are its parent's. Raises NotFound."""
        while (branch := self.branch(index)) is not None:
            index = branch.parent
        return self.grid.cells()[index]

    def sampling(self, index: int) -> SamplingParams:
        """The values of an answer as its sampler had them: with top_k as the backend could follow it. Raises NotFound."""
        asked = self.asked(index)
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
    def tokens(self) -> int:
        """Of all answers together."""
        return sum(len(self.answer(index).tokens) for index in self.indices)

    @property
    def failed(self) -> int:
        return sum(cell.outcome == "error" for cell in self.cells)


def blank(values: SamplingParams) -> Cell:
    """A cell that has not been run."""
    assert values.seed is not None and math.isfinite(values.temperature)
    return Cell(temperature=values.temperature, top_p=values.top_p, top_k=values.top_k, seed=values.seed)
