"""Runs a grid on a backend: cells side by side as one stream of events, each to be stopped or run again by itself.

Knows the nouns of backend/base.py and prompts; no torch, no files and no web.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import platform
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import mllama_demo
from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import IncrementalText, Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Backend, Event, FinishEvent, GenerationRequest, PrefillEvent, QueueEvent, TokenEvent
from mllama_demo.errors import BadRequest, DemoError
from mllama_demo.explore.filter_steps import with_choice
from mllama_demo.explore.grid import MAX_TOKENS, Estimate, Grid, Pace, estimate, measured_pace
from mllama_demo.explore.results import MAX_BRANCHES, Cell, Run, RunImage, Token, blank
from mllama_demo.generation.request import RequestBuilder, generate_when_free, renewed
from mllama_demo.images.loading import LoadedImage
from mllama_demo.sampling import SamplingParams

log = logging.getLogger(__name__)

# Requests in the backend's queue beyond its slots: enough that none idles, few enough that others' questions are not refused.
AHEAD = 2
Runs = TypeVar("Runs", bound="CellRuns")
Phase = Literal["queued", "waiting", "reading", "writing", "done"]


@dataclass(eq=False)
class LiveCell:
    """One cell at this moment. queued: not sent yet; waiting: in the backend's queue, at `position`. error: why it failed."""

    sampling: SamplingParams
    phase: Phase = "queued"
    position: int | None = None
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: FinishEvent | None = None
    error: str | None = None
    stopped: bool = False

    def after(self, event: Event) -> None:
        """Takes in what happened."""
        if isinstance(event, QueueEvent):
            self.phase, self.position = "waiting", event.position
        elif isinstance(event, PrefillEvent):
            self.phase, self.position = "reading", None
        elif isinstance(event, TokenEvent):
            self.phase = "writing"
            self.text += event.text
            self.tokens.append(Token(id=event.token_id, text=event.text, trace=event.trace))
        else:
            self.text += event.text
            self.finish, self.error = event, event.error
            self.phase = "done"

    def result(self) -> Cell:
        """What is kept of it."""
        known: dict[str, Any] = {"text": self.text, "tokens": tuple(self.tokens), "error": self.error}
        if self.finish is not None:
            finish = self.finish
            known |= {"outcome": finish.reason, "prompt_tokens": finish.prompt_tokens, "timings": finish.timings}
        elif self.error is not None:
            known["outcome"] = "error"
        elif self.stopped:
            known["outcome"] = "cancelled"
        return blank(self.sampling).model_copy(update=known)


@dataclass(frozen=True)
class CellEvent:
    """Something changed in a cell; cell is as it is now."""

    index: int
    cell: LiveCell


class CellRuns:
    """Answers under way side by side. They go on whether or not anybody reads; `async with` ends what is left of them."""

    def __init__(self, backend: Backend, requests: Sequence[GenerationRequest], cells: list[LiveCell]) -> None:
        """requests, cells: one for each answer. Runs at once; needs a running event loop."""
        self.cells = cells
        self._backend = backend
        self._requests = list(requests)
        self._places = asyncio.Semaphore(backend.info.slots + AHEAD)
        self._readers: set[asyncio.Queue[int]] = set()
        self._fresh = [(list(cell.tokens), cell.text) for cell in cells]
        self._tasks = {index: asyncio.create_task(self._run(index)) for index in range(len(cells))}

    @property
    def finished(self) -> bool:
        return all(cell.phase == "done" for cell in self.cells)

    async def events(self) -> AsyncGenerator[CellEvent, None]:
        """What changes from now on, until every cell is done. Several may read; closing it ends nothing but the reading."""
        mailbox: asyncio.Queue[int] = asyncio.Queue()
        self._readers.add(mailbox)
        try:
            while not (self.finished and mailbox.empty()):
                index = await mailbox.get()
                yield CellEvent(index, self.cells[index])
        finally:
            self._readers.discard(mailbox)

    async def wait(self) -> None:
        """Until every cell is done."""
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass

    def stop(self, index: int | None = None) -> None:
        """Ends one cell or all; what they have said stays. Those that are done are left alone."""
        for at in range(len(self.cells)) if index is None else [index]:
            cell = self.cells[at]
            if cell.phase == "done":
                continue
            cell.stopped = True
            if cell.phase == "queued":
                self._tasks[at].cancel()
                self._tell(at, done=True)
            else:
                self._backend.cancel(self._requests[at].id)

    def rerun(self, index: int) -> None:
        """Runs one cell anew, with the same values and the same seed. Raises BadRequest while it is under way."""
        if self.cells[index].phase != "done":
            raise BadRequest(f"Cell {index + 1} is still under way; stop it first.")
        tokens, text = self._fresh[index]
        self.cells[index] = LiveCell(self.cells[index].sampling, tokens=list(tokens), text=text)
        self._requests[index] = renewed(self._requests[index])
        self._tasks[index] = asyncio.create_task(self._run(index))
        self._tell(index)

    async def aclose(self) -> None:
        """Ends whatever is under way. Safe to call twice."""
        for index, task in self._tasks.items():
            task.cancel()
            if self.cells[index].phase != "done":
                self.cells[index].stopped = True
                self._tell(index, done=True)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def __aenter__(self: Runs) -> Runs:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.aclose()

    async def _run(self, index: int) -> None:
        cell = self.cells[index]
        try:
            async with self._places:
                await self._generate(index, cell)
        except DemoError as error:
            cell.error = str(error)
        except Exception as error:
            log.exception("a cell could not be run")
            cell.error = f"This cell could not be run: {str(error) or type(error).__name__}"
        if cell.phase != "done":
            self._tell(index, done=True)

    async def _generate(self, index: int, cell: LiveCell) -> None:
        def back_to_queued() -> None:
            cell.phase = "queued"

        async with aclosing(generate_when_free(self._backend, self._requests[index], back_to_queued)) as events:
            async for event in events:
                cell.after(event)
                self._tell(index)

    def _tell(self, index: int, *, done: bool = False) -> None:
        if done:
            self.cells[index].phase = "done"
        for mailbox in self._readers:
            mailbox.put_nowait(index)


class GridRun(CellRuns):
    """A grid under way, see CellRuns."""

    def __init__(self, explorer: Explorer, grid: Grid, image: LoadedImage | None, requests: Sequence[GenerationRequest]) -> None:
        super().__init__(explorer.backend, requests, [LiveCell(values) for values in grid.cells()])
        self.grid = grid
        self._image = image
        self._explorer = explorer
        self._blank = explorer.blank_run(grid, image)

    def run(self) -> Run:
        """What there is so far, to keep."""
        cells = tuple(cell.result() for cell in self.cells)
        self._explorer.learn(cells)
        return self._blank.model_copy(update={"cells": cells})


class Explorer:
    """Starts grids on one backend, and learns its pace from them."""

    def __init__(
        self, backend: Backend, tokenizer: Tokenizer | TokenEstimate, settings: Settings, pace: Pace | None = None
    ) -> None:
        self.backend = backend
        self.pace = pace
        self._tokenizer = tokenizer
        self._settings = settings
        self._requests = RequestBuilder(backend, tokenizer, settings)

    def estimate(self, grid: Grid) -> Estimate:
        """What a grid would take if it were started now."""
        info, status = self.backend.info, self.backend.status()
        return estimate(grid, info.slots, fork=self._has("fork"), pace=self.pace, wait_s=status.estimated_wait_s)

    async def start(self, grid: Grid, image: LoadedImage | None, conversation_id: str = "") -> GridRun:
        """Sends all cells on their way. conversation_id: whose turn in the queue they share; empty is a turn of their own.

        Raises PromptTooLong, and BadRequest for a picture where the backend takes none.
        """
        base = await self._request(grid, image, conversation_id)
        return GridRun(self, grid, image, [self._with(base, values) for values in grid.cells()])

    async def again(self, run: Run, index: int, image: LoadedImage | None, conversation_id: str = "") -> CellRuns:
        """One cell of a run anew, with the same values and the same seed. image: of the run, loaded."""
        base = await self._request(run.grid, image, conversation_id)
        values = run.grid.cells()[index]
        return CellRuns(self.backend, [replace(self._with(base, values), shared_prompt=False)], [LiveCell(values)])

    async def branch(
        self, run: Run, index: int, position: int, token_id: int, image: LoadedImage | None, conversation_id: str = ""
    ) -> CellRuns:
        """Goes on with an answer's first `position` tokens and then token_id instead of the one it chose: one new answer.

        The random numbers that come next are those that came next there. index: for Run.answer. image: of the run, loaded.
        Raises NotFound for an answer that is not there, and BadRequest where nothing can follow or the run is full.
        """
        cell, values = run.answer(index), run.sampling(index)
        if len(run.branches) >= MAX_BRANCHES:
            raise BadRequest(f"A run has at most {MAX_BRANCHES} branches, and this one has them all; delete one first.")
        if run.tokens + values.max_tokens > MAX_TOKENS:
            sizes = f"this one has {run.tokens:,}, and a branch may take {values.max_tokens:,}"
            raise BadRequest(f"A run has at most {MAX_TOKENS:,} tokens; {sizes}.")
        if isinstance(self._tokenizer, TokenEstimate) or not self._has("probabilities"):
            raise BadRequest(f"The backend {self.backend.info.name} cannot go on with an answer from its middle.")
        tokens = (*cell.tokens[:position], with_choice(cell, position, token_id))
        if len(tokens) >= values.max_tokens:
            raise BadRequest(f"No token can follow: the answer has {len(tokens)} with this one, and max_tokens is {len(tokens)}.")
        base = await self._request(run.grid, image, conversation_id)
        text = IncrementalText(self._tokenizer, values.stop)
        primed = [token.model_copy(update={"text": text.push(token.id)}) for token in tokens]
        sampling = replace(values, max_tokens=values.max_tokens - len(tokens))
        ids = (*base.prompt_ids, *(token.id for token in tokens))
        request = replace(self._with(base, sampling), prompt_ids=ids, answered=len(tokens), shared_prompt=False)
        live = LiveCell(values, text="".join(token.text for token in primed), tokens=primed)
        return CellRuns(self.backend, [request], [live])

    def blank_run(self, grid: Grid, image: LoadedImage | None) -> Run:
        """A run of which no cell has been run."""
        info = self.backend.info
        return Run(
            grid=grid,
            image=None if image is None else RunImage.of(image),
            cells=tuple(map(blank, grid.cells())),
            model=info.model,
            backend=info.name,
            device=info.device,
            max_top_k=info.max_top_k,
            repeatable=self._has("seed"),
            system_prompt=self._settings.system_prompt,
            versions=_versions(),
        )

    def learn(self, cells: Sequence[Cell]) -> None:
        """Takes the pace of finished cells for the next estimate."""
        timed = [(c.timings, len(c.tokens)) for c in cells if c.timings is not None]
        self.pace = measured_pace([(t.waited_s, t.decode_s, t.ttft_s, n) for t, n in timed]) or self.pace

    async def _request(self, grid: Grid, image: LoadedImage | None, conversation_id: str) -> GenerationRequest:
        """What the requests of all cells have in common."""
        info = self.backend.info
        if image is not None and not self._has("images"):
            raise BadRequest(f"The backend {info.name} takes no images; leave the image out.")
        conversation = Conversation((Message("user", grid.prompt, None if image is None else ImageRef.of(image)),))
        built = await self._requests.build(
            conversation,
            SamplingParams(max_tokens=grid.max_tokens),
            lambda _: image,
            conversation_id=conversation_id,
            shared_prompt=self._has("fork"),
            trace=self._has("probabilities"),
        )
        return built.request

    def _with(self, base: GenerationRequest, values: SamplingParams) -> GenerationRequest:
        return renewed(base, sampling=self._requests.with_seed(values))

    def _has(self, capability: str) -> bool:
        return capability in self.backend.info.capabilities


def _versions() -> dict[str, str]:
    """Of what an answer depends on; packages that are not there are left out."""
    found = {"mllama_demo": mllama_demo.__version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "numpy", "neuronx-distributed-inference"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
