"""The images of questions, for the page: fetched from an address, attached to a question, or seen by the model for an answer."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama_demo.chat.conversation import Conversation
from mllama_demo.errors import BadRequest, DemoError, NotFound
from mllama_demo.images.threads import in_image_thread
from mllama_demo.runtime.failures import report_failure
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.threads import in_database_thread
from mllama_demo.ui.history import load_tile_view
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.page_update import PageSession
from mllama_demo.ui.session_cleanup import SessionCleanup
from mllama_demo.ui.tile_view import no_tiles
from mllama_demo.ui.user_message import MAX_FILES, ImageChoice, WhichImage, attached_paths, choice_of, visible_image


@dataclass(frozen=True)
class CheckedFile:
    """An attached file, as the server finds it.

    Attributes:
        refusal: Why the file cannot be sent, as a sentence; empty for an image.
        preview: The address of a small preview, for a browser that cannot draw the file; empty for a refused file.
    """

    refusal: str = ""
    preview: str = ""


@dataclass(frozen=True)
class QuestionPreview:
    """What the model would see of a question that is not sent yet.

    Attributes:
        choice: What the visitor has to choose; None where there is no choice.
        tiles: The tiles, as HTML.
        files: The attached files, in their order.
    """

    choice: ImageChoice | None
    tiles: str
    files: tuple[CheckedFile, ...] = ()


class Attachments:
    """Answers the page's requests about images."""

    def __init__(self, store: ConversationStore, image_files: ImageFiles, cleanup: SessionCleanup) -> None:
        self._store, self._image_files, self._cleanup = store, image_files, cleanup

    async def fetch(self, url: str) -> str:
        """Fetches an image from a web address; the path of the file to attach."""
        return await self._image_files.fetch(url)

    async def preview_question(
        self, session: PageSession, conversation_id: str, value: dict[str, Any], which: WhichImage
    ) -> QuestionPreview:
        """Checks the attached files of a question that is not sent yet.

        Args:
            value: The value of the question field.
            which: The choice that the page shows, where there is one.
        """
        conversation = Conversation()
        with contextlib.suppress(NotFound):  # a new conversation is stored when its first answer begins
            if conversation_id:
                conversation = await in_database_thread(self._store.load, session.owner, conversation_id)
        files, seen = attached_paths(value or {}), visible_image(conversation)
        self._cleanup.note(session.id, files)
        checked = await in_image_thread(
            lambda: tuple(self._checked(path, number, session.owner) for number, path in enumerate(files, 1))
        )
        accepted = [path.name for path, one in zip(files, checked, strict=True) if not one.refusal]
        choice = choice_of(accepted, seen)
        which = which if choice else "newest"
        if not files or (which == "first" and seen is not None):
            return QuestionPreview(choice, await load_tile_view(self._image_files, seen), checked)
        shown = 1 if which == "first" else len(files)
        if refusal := next((one.refusal for one in checked[:shown] if one.refusal), ""):
            return QuestionPreview(choice, no_tiles(refusal), checked)
        try:
            tiles = await in_image_thread(self._image_files.tile_view_of_uploads, files[:shown], seen, which == "together")
        except DemoError as error:  # side by side, they are too large; sending the question shows it as a notice
            tiles = no_tiles(report_failure(error))
        return QuestionPreview(choice, tiles, checked)

    def _checked(self, path: Path, number: int, owner: str) -> CheckedFile:
        """number: of the file among those of the question, from 1."""
        if number > MAX_FILES:  # refused before it is decoded: a question must not fill the memory
            return CheckedFile(refusal=f"A question takes at most {MAX_FILES} images; {path.name} is one too many.")
        try:
            return CheckedFile(preview=self._image_files.check(path, owner))
        except DemoError as error:
            return CheckedFile(refusal=report_failure(error))

    async def preview(self, session: PageSession, conversation_id: str, number: int) -> str:
        """HTML: the tiles that the model saw for the answer with this number."""
        tree = await in_database_thread(self._store.tree, session.owner, conversation_id)
        image = visible_image(tree.up_to(number))
        if image is None:
            raise BadRequest("The model saw no image here.")
        return await load_tile_view(self._image_files, image)
