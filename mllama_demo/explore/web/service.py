"""Generates grids, cells and branches for the Explore page as streams of events, and saves the results. Knows no routes."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendInfo
from mllama_demo.errors import BadRequest, DemoError, NotFound
from mllama_demo.explore.edits import has_own_tokens, with_branch, with_cell
from mllama_demo.explore.results import Run
from mllama_demo.explore.run_store import RunStore
from mllama_demo.explore.runner import CellTasks, Explorer, GridTasks
from mllama_demo.explore.stream import JsonEvent, cell_events, start_event
from mllama_demo.explore.web import views
from mllama_demo.explore.web.chat_link import ChatLink
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.loading import LoadedImage, from_data_url, load_image
from mllama_demo.runtime.failures import log_bug, report_failure
from mllama_demo.storage.share_links import is_token
from mllama_demo.storage.stores import Stores
from mllama_demo.storage.threads import in_database_thread
from mllama_demo.web.errors import INTERNAL_ERROR

log = logging.getLogger(__name__)

EXAMPLE_IMAGES = tuple(sorted(path.name for path in EXAMPLES_FOLDER.glob("*.png")))


class ExploreService:
    """The state that the routes share.

    Attributes:
        runs: the saved runs.
        chat: the way to the chat and back.
        active: whatever is being generated, by owner and id. The id of a grid is that of its run.
    """

    def __init__(self, explorer: Explorer, tokenizer: Tokenizer | TokenEstimate, settings: Settings, stores: Stores) -> None:
        self.explorer, self.tokenizer, self.settings = explorer, tokenizer, settings
        self.runs = RunStore(stores.explore_runs, stores.run_shares)
        self.chat = ChatLink(stores.conversations, settings.image_limits)
        self.active: dict[tuple[str, str], CellTasks] = {}

    @property
    def info(self) -> BackendInfo:
        return self.explorer.backend.info

    def load_image(self, owner: str, source: str | None, name: str = "image") -> LoadedImage | None:
        """Loads an image for a grid.

        Args:
            source: the name of an example, a data URL, an image of the chat (see ChatLink.load_image), or run: and the id of a
                readable run.
            name: of the file that a data URL has the content of; the other images have names of their own.
        Raises:
            ImageError, BadRequest, NotFound: there is no such image.
        """
        if source is None:
            return None
        limits = self.settings.image_limits
        if source in EXAMPLE_IMAGES:
            return load_image((EXAMPLES_FOLDER / source).read_bytes(), source, limits)
        if source.startswith("run:"):
            return self.image_of(self.readable_run(owner, source.removeprefix("run:")))
        if (image := self.chat.load_image(owner, source)) is not None:
            return image
        if not source.lower().startswith("data:"):
            raise BadRequest(f"image must be a data URL or one of {', '.join(EXAMPLE_IMAGES)}.")
        return from_data_url(source, name, limits)

    def image_of(self, run: Run) -> LoadedImage | None:
        return None if run.image is None else run.image.load(self.settings.image_limits)

    def view(self, run: Run, shared_as: str | None = None) -> views.View:
        """shared_as: the token of the link that shows the run."""
        return views.run_view(run, self.tokenizer, shared_as)

    def readable_run(self, owner: str, id: str) -> Run:
        """A run of the owner, or the run that a link shows. A run that is being generated has the answers so far.

        Args:
            id: of the run, or the token of the link.
        Raises:
            NotFound: there is no such run.
        """
        tasks = self.active.get((owner, id))
        if isinstance(tasks, GridTasks):  # a page that was reloaded asks before its run is saved
            return tasks.run()
        return self.runs.open_share(id)[0] if is_token(id) else self.runs.load(owner, id)

    def image_file(self, owner: str, id: str) -> bytes | None:
        """The file of the image of a readable run; None for a run without image. A saved run itself is not read.

        Raises:
            NotFound: there is no such run.
        """
        if is_token(id) or (owner, id) in self.active:
            image = self.readable_run(owner, id).image
            return None if image is None else image.data
        return self.runs.image(owner, id)

    def save_copy(self, owner: str, run: Run) -> Run:
        """Saves a run under a new id."""
        copy = run.model_copy(update={"id": Run.model_fields["id"].get_default(call_default_factory=True)})
        self.runs.save(owner, copy)
        return copy

    def stop(self, owner: str, id: str, index: int | None) -> None:
        """Stops everything that is generated under the id, or one cell of it. Raises NotFound."""
        tasks = self.active.get((owner, id))
        if tasks is None:
            raise NotFound(f"Nothing is under way as {id:.40}; it may just have ended.")
        if index is not None and index >= len(tasks.cells):
            raise NotFound(f"The run has {len(tasks.cells)} cells, so there is no cell {index + 1}.")
        tasks.stop(index)

    # --- streams: the answers so far are saved at the end of a stream, also when the client disconnects ------------------

    def grid_events(self, owner: str, tasks: GridTasks) -> AsyncGenerator[JsonEvent, None]:
        """Streams a whole run and saves it."""
        run_id = tasks.run().id

        def save() -> JsonEvent:
            run = tasks.run()
            self.runs.save(owner, run)
            return {"view": self.view(run)}

        start = start_event(tasks.grid, self.explorer.estimate(tasks.grid), run_id)
        return self._events(owner, run_id, tasks, start, None, save)

    def rerun_events(self, owner: str, run: Run, index: int, tasks: CellTasks) -> AsyncGenerator[JsonEvent, None]:
        """Streams one repeated cell and replaces it in the saved run."""

        def save() -> JsonEvent:
            cell = tasks.cells[0].to_cell()
            saved = self.runs.change(owner, run.id, lambda current: with_cell(current, index, cell))
            note = None if saved.cells[index] is cell else f"{cell.error or 'Stopped.'} The earlier answer stays."
            return {"view": self.view(saved), "note": note}

        id = uuid.uuid4().hex
        return self._events(owner, id, tasks, {"event": "start", "run": id}, [index], save)

    def branch_events(
        self, owner: str, run: Run, parent: int, position: int, tasks: CellTasks
    ) -> AsyncGenerator[JsonEvent, None]:
        """Streams a branch and adds it to the saved run. `shared` is the length of the text of its parent in it."""

        def save() -> JsonEvent:
            cell = tasks.cells[0].to_cell()
            if not has_own_tokens(cell, position + 1):
                unchanged = self.view(self.runs.load(owner, run.id))
                return {"view": unchanged, "note": f"{cell.error or 'Stopped.'} Nothing of it is kept."}
            saved = self.runs.change(owner, run.id, lambda current: with_branch(current, parent, position, cell))
            return {"view": self.view(saved), "branch": saved.index_of(saved.branches[-1])}

        id = uuid.uuid4().hex
        shared = sum(len(token.text) for token in tasks.cells[0].tokens[:position])
        return self._events(owner, id, tasks, {"event": "start", "run": id, "shared": shared}, None, save)

    async def _events(
        self,
        owner: str,
        id: str,
        tasks: CellTasks,
        start: JsonEvent,
        numbers: list[int] | None,
        save: Callable[[], JsonEvent],
    ) -> AsyncGenerator[JsonEvent, None]:
        """save: saves the answers and returns the fields of the end event. Its errors become an error event."""
        self.active[owner, id] = tasks
        try:
            try:
                async with tasks, aclosing(cell_events(tasks, numbers)) as events:
                    yield start
                    async for event in events:
                        yield event
            finally:
                last = await in_database_thread(_last_event, save)
        finally:
            del self.active[owner, id]
        yield last


def _last_event(save: Callable[[], JsonEvent]) -> dict[str, Any]:
    try:
        return {"event": "end", **save()}
    except DemoError as error:
        return {"event": "error", "error": report_failure(error)}
    except Exception:
        log_bug(log, "the answers could not be saved")
        return {"event": "error", "error": INTERNAL_ERROR}
