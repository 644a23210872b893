"""Runs a grid on a backend: all cells concurrently, each can be stopped alone. Also repeats a cell and generates a branch.

This module knows the Backend protocol and prompts. It knows no torch, no files and no web.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import platform
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import mllama_demo
from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import IncrementalText, Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Backend, Client, Event, FinishEvent, GenerationRequest, PrefillEvent, QueueEvent, TokenEvent
from mllama_demo.errors import BadRequest, DemoError
from mllama_demo.explore.filter_steps import forced_token
from mllama_demo.explore.grid import MAX_TOKENS, BackendSpeed, Estimate, Grid, estimate, measured_speed
from mllama_demo.explore.reported_tokens import tokens_of
from mllama_demo.explore.results import MAX_BRANCHES, Cell, Run, RunImage, Token, empty_cell
from mllama_demo.generation.request import RequestBuilder, generate_when_free, renewed
from mllama_demo.images.loading import LoadedImage
from mllama_demo.runtime.failures import log_bug, report_failure
from mllama_demo.sampling import SamplingParams

log = logging.getLogger(__name__)

# Requests in the backend's queue beyond its slots: enough to keep every slot busy, few enough to leave room for other users.
QUEUE_AHEAD = 2
Self = TypeVar("Self", bound="CellTasks")
Phase = Literal["queued", "waiting", "reading", "writing", "done"]


@dataclass(eq=False)
class CellProgress:
    """The current state of one cell.

    Attributes:
        phase: queued: not sent to the backend yet; waiting: in the backend's queue; reading: in prefill; writing: in decode.
        position: in the backend's queue.
        error: why the cell failed.
        stopped: whether somebody stopped the cell.
    """

    sampling: SamplingParams
    phase: Phase = "queued"
    position: int | None = None
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: FinishEvent | None = None
    error: str | None = None
    stopped: bool = False

    def apply(self, event: Event) -> None:
        """Updates the state with an event of the backend."""
        if isinstance(event, QueueEvent):
            self.phase, self.position = "waiting", event.position
        elif isinstance(event, PrefillEvent):
            self.phase, self.position = "reading", None
        elif isinstance(event, TokenEvent):
            self.phase = "writing"
            self.text += event.text
            self.tokens += tokens_of(event, self.sampling)
        else:
            self.text += event.text
            self.finish, self.error = event, event.error
            self.phase = "done"

    def to_cell(self) -> Cell:
        """The cell to save."""
        known: dict[str, Any] = {"text": self.text, "tokens": tuple(self.tokens), "error": self.error}
        if self.finish is not None:
            finish = self.finish
            known |= {"outcome": finish.reason, "prompt_tokens": finish.prompt_tokens, "timings": finish.timings}
        elif self.error is not None:
            known["outcome"] = "error"
        elif self.stopped:
            known["outcome"] = "cancelled"
        return empty_cell(self.sampling).model_copy(update=known)


class CellTasks:
    """Generates some answers concurrently, one asyncio task for each. `async with` stops the unfinished ones at its end."""

    def __init__(self, backend: Backend, requests: Sequence[GenerationRequest], cells: list[CellProgress]) -> None:
        """Starts at once; needs a running event loop. requests, cells: one of each for every answer."""
        self.cells = cells
        self._backend = backend
        self._requests = requests
        self._concurrency = asyncio.Semaphore(backend.info.slots + QUEUE_AHEAD)
        self._tasks = [asyncio.create_task(self._run(index)) for index in range(len(cells))]

    @property
    def finished(self) -> bool:
        return all(cell.phase == "done" for cell in self.cells)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Waits until every cell is done or the time is over. Neither the timeout nor cancelling the wait stops a cell."""
        await asyncio.wait(self._tasks, timeout=timeout_s)

    def stop(self, index: int | None = None) -> None:
        """Stops one cell or all. The text so far stays; finished cells do not change."""
        for at in range(len(self.cells)) if index is None else [index]:
            cell = self.cells[at]
            if cell.phase == "done":
                continue
            cell.stopped = True
            if cell.phase == "queued":
                self._tasks[at].cancel()
                cell.phase = "done"
            else:
                self._backend.cancel(self._requests[at].id)

    async def aclose(self) -> None:
        """Stops all unfinished cells. A second call does nothing."""
        for cell, task in zip(self.cells, self._tasks, strict=True):
            task.cancel()
            if cell.phase != "done":
                cell.stopped, cell.phase = True, "done"
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.aclose()

    async def _run(self, index: int) -> None:
        cell = self.cells[index]
        try:
            async with self._concurrency:
                await self._generate(self._requests[index], cell)
        except DemoError as error:
            cell.error = report_failure(error)
        except Exception:
            log_bug(log, "a cell could not be run")
            cell.error = "This cell could not be run; the server's log has the cause."
        cell.phase = "done"

    async def _generate(self, request: GenerationRequest, cell: CellProgress) -> None:
        def back_to_queued() -> None:
            cell.phase = "queued"

        async with aclosing(generate_when_free(self._backend, request, back_to_queued)) as events:
            async for event in events:
                cell.apply(event)


class GridTasks(CellTasks):
    """Generates all cells of a grid, see CellTasks."""

    def __init__(
        self,
        explorer: Explorer,
        grid: Grid,
        image: LoadedImage | None,
        requests: Sequence[GenerationRequest],
        tour: bool = False,
    ) -> None:
        super().__init__(explorer.backend, requests, [CellProgress(values) for values in grid.cells()])
        self.grid = grid
        self._explorer = explorer
        self._empty_run = explorer.empty_run(grid, image).model_copy(update={"tour": tour})

    def run(self) -> Run:
        """The run with the answers so far."""
        cells = tuple(cell.to_cell() for cell in self.cells)
        self._explorer.update_speed(cells)
        return self._empty_run.model_copy(update={"cells": cells})


class Explorer:
    """Starts grids, repeated cells and branches on one backend. Measures the speed of the backend for estimates."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer | TokenEstimate, settings: Settings) -> None:
        self.backend = backend
        self._speed: BackendSpeed | None = None
        self._tokenizer = tokenizer
        self._settings = settings
        self._requests = RequestBuilder(backend, tokenizer, settings)

    def estimate(self, grid: Grid) -> Estimate:
        """The cost of a grid if it started now."""
        info, status = self.backend.info, self.backend.status()
        return estimate(grid, info.slots, fork=self._has("fork"), speed=self._speed, wait_s=status.estimated_wait_s)

    async def start(self, grid: Grid, image: LoadedImage | None, client: Client | None = None, tour: bool = False) -> GridTasks:
        """Starts all cells of a grid.

        Args:
            grid: what to generate.
            image: for every cell.
            client: who asks; None for the program itself. The cells share one turn in the backend's fair queue.
            tour: whether the guided tour starts the grid.

        Raises:
            PromptTooLong: the prompt does not fit into the context.
            BadRequest: the backend takes no images, or does not read an axis whose values would be compared.
        """
        for axis in grid.grouping_axes():
            if reason := self.backend.info.ignored.get(axis):
                raise BadRequest(f"The cells cannot differ by {axis}. {reason}")
        base = await self._request(grid, image, client)
        return GridTasks(self, grid, image, [self._with_sampling(base, values) for values in grid.cells()], tour)

    async def rerun_cell(self, run: Run, index: int, image: LoadedImage | None, client: Client | None = None) -> CellTasks:
        """Generates one cell of a run again, with the same values and the same seed. image: the loaded image of the run."""
        base = await self._request(run.grid, image, client)
        values = run.grid.cells()[index]
        request = self._with_sampling(base, values)
        return CellTasks(self.backend, [request], [CellProgress(values)])

    async def branch(
        self, run: Run, index: int, position: int, token_id: int, image: LoadedImage | None, client: Client | None = None
    ) -> CellTasks:
        """Generates one new answer: the first `position` tokens of an answer, then token_id, then newly sampled tokens.

        The sampled tokens use the random numbers that the original answer used at the same positions.

        Args:
            run: with the original answer.
            index: of the original answer, see Run.answer.
            position: of the forced token, from 0.
            token_id: of the forced token, a recorded candidate of the position.
            image: the loaded image of the run.
            client: see start.

        Raises:
            NotFound: there is no such answer.
            BadRequest: no token can follow, the run has too many branches or tokens, or the backend cannot continue an answer.
        """
        cell, values = run.answer(index), run.effective_sampling(index)
        if len(run.branches) >= MAX_BRANCHES:
            raise BadRequest(f"A run has at most {MAX_BRANCHES} branches, and this one has them all; delete one first.")
        if run.token_count + values.max_tokens > MAX_TOKENS:
            sizes = f"this one has {run.token_count:,}, and a branch may take {values.max_tokens:,}"
            raise BadRequest(f"A run has at most {MAX_TOKENS:,} tokens; {sizes}.")
        if isinstance(self._tokenizer, TokenEstimate) or not self._has("probabilities"):
            raise BadRequest(f"The backend {self.backend.info.name} cannot go on with an answer from its middle.")
        tokens = (*cell.tokens[:position], forced_token(cell, position, token_id))
        if len(tokens) >= values.max_tokens:
            raise BadRequest(f"No token can follow: the answer has {len(tokens)} with this one, and max_tokens is {len(tokens)}.")
        base = await self._request(run.grid, image, client)
        text = IncrementalText(self._tokenizer, values.stop)
        shared = [token.model_copy(update={"text": text.push(token.id)}) for token in tokens]
        sampling = replace(values, max_tokens=values.max_tokens - len(tokens))
        ids = (*base.prompt_ids, *(token.id for token in tokens))
        request = replace(self._with_sampling(base, sampling), prompt_ids=ids, answered=len(tokens))
        progress = CellProgress(values, text="".join(token.text for token in shared), tokens=shared)
        return CellTasks(self.backend, [request], [progress])

    def empty_run(self, grid: Grid, image: LoadedImage | None) -> Run:
        """A run without answers."""
        info = self.backend.info
        return Run(
            grid=grid,
            image=None if image is None else RunImage.from_loaded(image),
            cells=tuple(map(empty_cell, grid.cells())),
            model=info.model,
            backend=info.name,
            device=info.device,
            max_top_k=info.max_top_k,
            repeatable=self._has("seed"),
            system_prompt=self._settings.system_prompt,
            versions=_versions(),
        )

    def update_speed(self, cells: Sequence[Cell]) -> None:
        """Measures the speed of the backend from finished cells, for the next estimate."""
        timed = [(c.timings, len(c.tokens)) for c in cells if c.timings is not None]
        self._speed = measured_speed([(t.waited_s, t.decode_s, t.ttft_s, n) for t, n in timed]) or self._speed

    async def _request(self, grid: Grid, image: LoadedImage | None, client: Client | None) -> GenerationRequest:
        """The request that all cells of a grid have in common."""
        info = self.backend.info
        if image is not None and not self._has("images"):
            raise BadRequest(f"The backend {info.name} takes no images; leave the image out.")
        built = await self._requests.build(
            conversation_of(grid, None if image is None else ImageRef.of(image)),
            SamplingParams(max_tokens=grid.max_tokens),
            lambda _: image,
            conversation_id=uuid.uuid4().hex,
            client=client or Client(),
            trace=self._has("probabilities") or self._has("logprobs"),
        )
        return built.request

    def _with_sampling(self, base: GenerationRequest, values: SamplingParams) -> GenerationRequest:
        return renewed(base, sampling=self._requests.with_seed(values))

    def _has(self, capability: str) -> bool:
        return capability in self.backend.info.capabilities


def conversation_of(grid: Grid, image: ImageRef | None) -> Conversation:
    """The history of a grid and its prompt, with the image at its message."""
    in_history = any(turn.image for turn in grid.history)
    history = tuple(Message(turn.role, turn.text, image if turn.image else None) for turn in grid.history)
    return Conversation((*history, Message("user", grid.prompt, None if in_history else image)))


def _versions() -> dict[str, str]:
    """Versions of the packages that an answer depends on. Packages that are not installed are omitted."""
    found = {"mllama_demo": mllama_demo.__version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "numpy", "neuronx-distributed-inference"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
