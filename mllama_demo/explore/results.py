"""The result of a grid: the answer of every cell, token by token, and everything that is needed to repeat it.

A Run validates itself, because it may come from a file. This module knows no backend, no files and no web.
"""

from __future__ import annotations

import base64
import binascii
import math
import uuid
from dataclasses import replace
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
from mllama_demo.engine.token_sampler import RECORDED_CANDIDATES, TokenTrace
from mllama_demo.errors import NotFound
from mllama_demo.explore.grid import MAX_TOKENS, Grid
from mllama_demo.images.loading import ImageLimits, LoadedImage, load_image
from mllama_demo.sampling import SamplingParams

FORMAT = "mllama-demo exploration"
VERSION = 3  # 1 had no branches; 2 had no history, no candidates by text and no runs of the tour
MAX_BRANCHES = 64
# Answers that a repetition ends at the same token.
COMPLETE: frozenset[str] = frozenset({"end_of_turn", "stop_string", "max_tokens", "context_full"})


def _check_trace(trace: TokenTrace) -> TokenTrace:
    """Raises ValueError for a record that contradicts itself."""
    count = len(trace.token_ids)
    if not 1 <= count <= RECORDED_CANDIDATES or len(trace.logits) != count or len(set(trace.token_ids)) != count:
        raise ValueError(f"a trace has 1 to {RECORDED_CANDIDATES} different token_ids and as many logits")
    if any(before < after for before, after in pairwise(trace.logits)):
        raise ValueError("the logits of a trace descend")
    if trace.draw is not None and not 0 <= trace.draw < 1:
        raise ValueError("draw is at least 0 and below 1")
    if not 1 <= trace.after_top_p <= trace.after_top_k or min(trace.token_ids) < 0 or trace.chosen < 0:
        raise ValueError("after_top_p is from 1 to after_top_k, and token ids are not negative")
    # A sum over the whole vocabulary is not less than one over a part of it. 1e-6 allows for rounding.
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


class _StrictModel(BaseModel):
    """Converts no types ("5" is not a number), and refuses infinity and unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Token(_StrictModel):
    """One generated token.

    Attributes:
        id: -1 where a server returns text without tokens.
        text: the text that this token completed.
        trace: None where the backend returns no probabilities.
        candidates: the texts of trace.token_ids where a server sent text without ids; the ids are then made of the texts.
    """

    id: int = Field(ge=-1)
    text: str
    trace: Annotated[TokenTrace, AfterValidator(_check_trace)] | None = None
    candidates: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_candidates(self) -> Token:
        if self.candidates and (self.trace is None or len(self.candidates) != len(self.trace.token_ids)):
            raise ValueError("candidates has one text for each of the token_ids of the trace")
        return self

    def candidate_text(self, token_id: int) -> str | None:
        """The text of a candidate that a server sent; None where the tokenizer knows it."""
        if self.trace is None or not self.candidates or token_id not in self.trace.token_ids:
            return None
        return self.candidates[self.trace.token_ids.index(token_id)]


class Cell(_StrictModel):
    """One answer of a grid.

    Attributes:
        outcome: how the answer ended; None when it was not run.
        error: why the answer failed.
    """

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
    def _check_token_texts(self) -> Cell:
        if not self.text.startswith("".join(token.text for token in self.tokens)):
            raise ValueError("the texts of the tokens, one after another, must be the beginning of the text")
        return self

    @property
    def complete(self) -> bool:
        """Whether the answer can be measured: it was neither stopped nor did it fail."""
        return self.outcome in COMPLETE

    @property
    def traces(self) -> tuple[TokenTrace, ...] | None:
        """The record of every token; None when a record is missing."""
        found = tuple(token.trace for token in self.tokens if token.trace is not None)
        return found if found and len(found) == len(self.tokens) else None

    @property
    def tokens_per_second(self) -> float | None:
        return None if self.timings is None else self.timings.tokens_per_second(len(self.tokens))

    def matches(self, values: SamplingParams) -> bool:
        """Whether the cell has these sampling values."""
        wanted = (values.temperature, values.top_p, values.top_k, values.seed)
        return (self.temperature, self.top_p, self.top_k, self.seed) == wanted

    def label(self) -> str:
        """The sampling values as text."""
        return f"temperature {self.temperature:g}, top-p {self.top_p:g}, top-k {self.top_k}, seed {self.seed}"


class Branch(_StrictModel):
    """An answer that continues another answer from a forced token: a candidate that the user chose instead of the drawn one.

    Attributes:
        number: of the branch within its run, from 1.
        parent: the other answer, as an index for Run.answer.
        position: of the forced token, from 0.
        token_id: of the forced token.
        cell: the whole answer, with the shared beginning.
    """

    number: int = Field(ge=1, le=1_000_000)
    parent: int = Field(ge=0)
    position: int = Field(ge=0)
    token_id: int = Field(ge=0)
    cell: Cell

    @model_validator(mode="after")
    def _check_forced_token(self) -> Branch:
        if self.position >= len(self.cell.tokens) or self.cell.tokens[self.position].id != self.token_id:
            raise ValueError("a branch has the token that was chosen for it in its place")
        return self

    @property
    def token(self) -> str:
        """The forced token's text, or its id where the text is empty."""
        return self.cell.tokens[self.position].text or f"token {self.token_id}"


class RunImage(_StrictModel):
    """The image of a run, with the unchanged bytes of its file."""

    name: str
    format: str = Field(pattern="^[A-Z0-9]{1,10}$")  # from_json compares it with the format that the file has
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    data: Base64 = Field(repr=False)

    @classmethod
    def from_loaded(cls, image: LoadedImage) -> RunImage:
        return cls.model_validate({name: getattr(image, name) for name in cls.model_fields})

    @property
    def media_type(self) -> str:
        return f"image/{self.format.lower()}"

    def load(self, limits: ImageLimits) -> LoadedImage:
        """Decodes and checks the image. Raises ImageError."""
        return load_image(self.data, self.name, limits)


class Run(_StrictModel):
    """A grid, its answers (one cell for each of grid.cells(), in that order) and their branches.

    Every answer has an index. The cells have 0, 1, …; branch n has len(cells) + n - 1, also after another branch was deleted.

    Attributes:
        max_top_k: the largest top_k of the backend, see SamplingParams.top_k_within.
        repeatable: whether the backend used the seeds.
        versions: of the packages that an answer depends on.
        tour: whether the guided tour started the run.
    """

    format: Literal["mllama-demo exploration"] = FORMAT
    version: Annotated[Literal[1, 2, 3], AfterValidator(lambda _: VERSION)] = VERSION
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
    tour: bool = False

    @model_validator(mode="after")
    def _check_cells(self) -> Run:
        wanted = self.grid.cells()
        if len(self.cells) != len(wanted):
            raise ValueError(f"the grid has {len(wanted)} cells, and the run {len(self.cells)}")
        for index, (cell, values) in enumerate(zip(self.cells, wanted, strict=True)):
            if not cell.matches(values):
                raise ValueError(f"cell {index} has {cell.label()}, which is not what the grid has there")
        return self

    @model_validator(mode="after")
    def _check_branches(self) -> Run:
        numbers = [branch.number for branch in self.branches]
        if any(before >= after for before, after in pairwise(numbers)):
            raise ValueError("the numbers of the branches ascend")
        for branch in self.branches:
            index = self.index_of(branch)
            if branch.parent >= index or branch.parent not in self.indices:
                raise ValueError(f"branch {branch.number} leaves an answer that is not there")
            if not branch.cell.matches(self.requested_sampling(index)):
                raise ValueError(f"branch {branch.number} has {branch.cell.label()}, which the answer it leaves has not")
            if len(branch.cell.tokens) > self.grid.max_tokens:
                raise ValueError(f"branch {branch.number} has more tokens than max_tokens")
        if self.branches and self.token_count > MAX_TOKENS:
            raise ValueError(f"a run has at most {MAX_TOKENS:,} tokens")
        return self

    # --- answers by index ------------------------------------------------------------------------------------------------

    @property
    def indices(self) -> frozenset[int]:
        """The indices of all answers."""
        return frozenset([*range(len(self.cells)), *map(self.index_of, self.branches)])

    def index_of(self, branch: Branch) -> int:
        return len(self.cells) + branch.number - 1

    def branch_at(self, index: int) -> Branch | None:
        """The branch with this index, None for a cell of the grid. Raises NotFound for an unknown index."""
        if 0 <= index < len(self.cells):
            return None
        for branch in self.branches:
            if self.index_of(branch) == index:
                return branch
        if index < 0 or not self.branches:
            raise NotFound(f"The run has {len(self.cells)} cells, so there is no cell {index + 1}.")
        raise NotFound(f"The run has no branch {index - len(self.cells) + 1}.")

    def answer(self, index: int) -> Cell:
        """The cell or the answer of a branch. Raises NotFound."""
        branch = self.branch_at(index)
        return self.cells[index] if branch is None else branch.cell

    def name(self, index: int) -> str:
        """The displayed name of an answer: 3, or B1 for the first branch. Raises NotFound."""
        branch = self.branch_at(index)
        return str(index + 1) if branch is None else f"B{branch.number}"

    def origin(self, branch: Branch) -> str:
        """Text that tells where the branch leaves its parent."""
        what = "cell" if branch.parent < len(self.cells) else "branch"
        token = branch.token.strip() or branch.token
        return f"from {what} {self.name(branch.parent)}, with “{token}” as token {branch.position + 1}"

    def requested_sampling(self, index: int) -> SamplingParams:
        """The values of an answer in the grid; a branch has those of its parent. Raises NotFound."""
        while (branch := self.branch_at(index)) is not None:
            index = branch.parent
        return self.grid.cells()[index]

    def effective_sampling(self, index: int) -> SamplingParams:
        """The values that the sampler used: top_k is limited to max_top_k of the backend. Raises NotFound."""
        requested = self.requested_sampling(index)
        return requested if requested.greedy else replace(requested, top_k=requested.top_k_within(self.max_top_k))

    @property
    def title(self) -> str:
        """The title of the grid, or the beginning of its prompt."""
        return self.grid.title or shortened(self.grid.prompt) or "A picture"

    @property
    def token_count(self) -> int:
        """Number of tokens of all answers."""
        return sum(len(self.answer(index).tokens) for index in self.indices)

    def surplus(self, index: int) -> int:
        """How many tokens an answer has beyond max_tokens: a remote server may send more than it was asked for."""
        return max(0, len(self.answer(index).tokens) - self.grid.max_tokens)

    @property
    def failed_count(self) -> int:
        """Number of cells without an answer because of an error."""
        return sum(cell.outcome == "error" for cell in self.cells)


def empty_cell(values: SamplingParams) -> Cell:
    """A cell that was not run."""
    assert values.seed is not None and math.isfinite(values.temperature)
    return Cell(temperature=values.temperature, top_p=values.top_p, top_k=values.top_k, seed=values.seed)


def shortened(text: str) -> str:
    """At most 60 characters of the text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
