"""What the Explore page has under way and has kept: runs, single cells and branches as streams of lines. Knows no routes."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendInfo
from mllama_demo.errors import BadRequest, DemoError, NotFound
from mllama_demo.explore.edits import with_branch, with_cell, worth_keeping
from mllama_demo.explore.results import Run
from mllama_demo.explore.runner import CellRuns, Explorer, GridRun
from mllama_demo.explore.stream import WENT_WRONG, Line, first_line, lines_of
from mllama_demo.explore.web import views
from mllama_demo.explore.web.tour import EARLIER_STAYS, NOTHING_OF_ITS_OWN
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.loading import LoadedImage, from_data_url, load_image
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.explore_runs import ExploreRuns

log = logging.getLogger(__name__)

EXAMPLE_PICTURES = tuple(sorted(path.name for path in EXAMPLES_FOLDER.glob("*.png")))


class ExploreService:
    """What the routes share. live: whatever generates at the moment, by its owner and id; a grid's is the id of its run."""

    def __init__(
        self, explorer: Explorer, tokenizer: Tokenizer | TokenEstimate, settings: Settings, store: ConversationStore
    ) -> None:
        self.explorer, self.tokenizer, self.settings = explorer, tokenizer, settings
        self.kept = ExploreRuns(store.database, settings.max_kept_runs)
        self.live: dict[tuple[str, str], CellRuns] = {}

    @property
    def info(self) -> BackendInfo:
        return self.explorer.backend.info

    def picture(self, source: str | None) -> LoadedImage | None:
        """An example by its name, or a data: URL. Raises ImageError and BadRequest."""
        if source is None:
            return None
        limits = self.settings.image_limits
        if source in EXAMPLE_PICTURES:
            return load_image((EXAMPLES_FOLDER / source).read_bytes(), source, limits)
        if not source.lower().startswith("data:"):
            raise BadRequest(f"image must be a data URL or one of {', '.join(EXAMPLE_PICTURES)}.")
        return from_data_url(source, limits=limits)

    def picture_of(self, run: Run) -> LoadedImage | None:
        return None if run.image is None else run.image.load(self.settings.image_limits)

    def view(self, run: Run) -> views.View:
        return views.run_view(run, self.tokenizer)

    def stop(self, owner: str, id: str, index: int | None) -> None:
        """Ends what is under way, or one cell of it. Raises NotFound."""
        live = self.live.get((owner, id))
        if live is None:
            raise NotFound(f"Nothing is under way as {id:.40}; it may just have ended.")
        if index is not None and index >= len(live.cells):
            raise NotFound(f"The run has {len(live.cells)} cells, so there is no cell {index + 1}.")
        live.stop(index)

    # --- streams: what there is is kept at their end, also when the page is left -----------------------------------------

    async def grid_lines(self, owner: str, run: GridRun) -> AsyncGenerator[Line, None]:
        """A whole run."""
        first = run.run()

        def keep() -> Line:
            done = run.run()
            self.kept.save(owner, done)
            return {"view": self.view(done)}

        start = first_line(run.grid, self.explorer.estimate(run.grid), first.id)
        async with aclosing(self._lines(owner, first.id, run, start, None, keep)) as lines:
            async for line in lines:
                yield line

    async def cell_lines(self, owner: str, run: Run, index: int, cells: CellRuns) -> AsyncGenerator[Line, None]:
        """One cell anew, put in its place in the kept run."""

        def keep() -> Line:
            made = cells.cells[0].result()
            kept = self.kept.change(owner, run.id, lambda now: with_cell(now, index, made))
            note = None if kept.cells[index] is made else f"{made.error or 'Stopped.'} {EARLIER_STAYS}"
            return {"view": self.view(kept), "note": note}

        id = uuid.uuid4().hex
        async with aclosing(self._lines(owner, id, cells, {"event": "start", "run": id}, [index], keep)) as lines:
            async for line in lines:
                yield line

    async def branch_lines(self, owner: str, run: Run, parent: int, position: int, cells: CellRuns) -> AsyncGenerator[Line, None]:
        """A branch of one of the run's answers, kept with the run. shared: how many characters of it are its parent's."""

        def keep() -> Line:
            made = cells.cells[0].result()
            if not worth_keeping(made, position + 1):
                return {
                    "view": self.view(self.kept.load(owner, run.id)),
                    "note": f"{made.error or 'Stopped.'} {NOTHING_OF_ITS_OWN}",
                }
            kept = self.kept.change(owner, run.id, lambda now: with_branch(now, parent, position, made))
            return {"view": self.view(kept), "branch": kept.index_of(kept.branches[-1])}

        id = uuid.uuid4().hex
        shared = sum(len(token.text) for token in cells.cells[0].tokens[:position])
        start: Line = {"event": "start", "run": id, "shared": shared}
        async with aclosing(self._lines(owner, id, cells, start, None, keep)) as lines:
            async for line in lines:
                yield line

    async def _lines(
        self, owner: str, id: str, cells: CellRuns, start: Line, numbers: list[int] | None, keep: Callable[[], Line]
    ) -> AsyncGenerator[Line, None]:
        """keep: keeps what came of it and gives what the last line tells; what it raises is told there instead."""
        with self._under_way(owner, id, cells):
            try:
                async with cells, aclosing(lines_of(cells, numbers)) as lines:
                    yield start
                    async for line in lines:
                        yield line
            finally:
                last = await asyncio.to_thread(_last, keep)
        yield last

    @contextmanager
    def _under_way(self, owner: str, id: str, cells: CellRuns) -> Iterator[None]:
        self.live[owner, id] = cells
        try:
            yield
        finally:
            del self.live[owner, id]


def _last(keep: Callable[[], Line]) -> dict[str, Any]:
    try:
        return {"event": "end", **keep()}
    except DemoError as error:
        return {"event": "error", "error": str(error)}
    except Exception:
        log.exception("what was generated could not be kept")
        return {"event": "error", "error": WENT_WRONG}
