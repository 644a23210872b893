"""The images of questions, for the page: fetched from an address, attached to a question, or seen by the model for an answer."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from mllama_demo.chat.conversation import Conversation
from mllama_demo.errors import BadRequest, DemoError, NotFound
from mllama_demo.images.loading import LoadedImage
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.page_update import PageSession
from mllama_demo.ui.session_cleanup import SessionCleanup
from mllama_demo.ui.tile_view import no_tiles
from mllama_demo.ui.user_message import ImageChoice, WhichImage, attached_paths, choice_of, visible_image


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
        return await asyncio.to_thread(self._image_files.fetch, url)

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
                conversation = await asyncio.to_thread(self._store.load, session.owner, conversation_id)
        files, seen = attached_paths(value or {}), visible_image(conversation)
        self._cleanup.note(session.id, files)
        found = await asyncio.to_thread(self._image_files.check, files)
        accepted = [path.name for path, one in zip(files, found, strict=True) if not isinstance(one, DemoError)]
        choice = choice_of(accepted, seen)
        which = which if choice else "newest"
        checked = await asyncio.to_thread(lambda: tuple(map(self._checked, found)))
        if not files or (which == "first" and seen is not None):
            return QuestionPreview(choice, await asyncio.to_thread(self._image_files.tile_view, seen), checked)
        shown = found[:1] if which == "first" else found
        if refusal := next((one for one in shown if isinstance(one, DemoError)), None):
            return QuestionPreview(choice, no_tiles(str(refusal)), checked)
        images = [one for one in shown if not isinstance(one, DemoError)]
        try:
            tiles = await asyncio.to_thread(self._image_files.tile_view_of_uploads, images, seen, which == "together")
        except DemoError as error:  # side by side, they are too large; sending the question shows it as a notice
            tiles = no_tiles(str(error))
        return QuestionPreview(choice, tiles, checked)

    def _checked(self, found: LoadedImage | DemoError) -> CheckedFile:
        if isinstance(found, DemoError):
            return CheckedFile(refusal=str(found))
        return CheckedFile(preview=self._image_files.preview_upload(found))

    async def preview(self, session: PageSession, conversation_id: str, number: int) -> str:
        """HTML: the tiles that the model saw for the answer with this number."""
        tree = await asyncio.to_thread(self._store.tree, session.owner, conversation_id)
        image = visible_image(tree.up_to(number))
        if image is None:
            raise BadRequest("The model saw no image here.")
        return await asyncio.to_thread(self._image_files.tile_view, image)
