"""The images of questions, for the page: fetched from an address, attached to a question, or seen by the model for an answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from mllama_demo.chat.conversation import Conversation
from mllama_demo.errors import BadRequest, DemoError, NotFound
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.page_update import PageSession
from mllama_demo.ui.session_cleanup import SessionCleanup
from mllama_demo.ui.tile_view import no_tiles
from mllama_demo.ui.user_message import ImageChoice, WhichImage, attached_paths, choice_of, visible_image


class Attachments:
    """Answers the page's requests about images."""

    def __init__(self, store: ConversationStore, image_files: ImageFiles, cleanup: SessionCleanup) -> None:
        self._store, self._image_files, self._cleanup = store, image_files, cleanup

    async def fetch(self, url: str) -> str:
        """Fetches an image from a web address; the path of the file to attach."""
        return await asyncio.to_thread(self._image_files.fetch, url)

    async def preview_question(
        self, session: PageSession, conversation_id: str, value: dict[str, Any], which: WhichImage
    ) -> tuple[ImageChoice | None, str]:
        """What the model would see of a question that is not sent yet.

        Args:
            value: The value of the question field.
            which: The choice that the page shows, where there is one.

        Returns:
            What the visitor has to choose, None where there is no choice; and the tiles as HTML.
        """
        conversation = Conversation()
        with contextlib.suppress(NotFound):  # a new conversation is stored when its first answer begins
            if conversation_id:
                conversation = await asyncio.to_thread(self._store.load, session.owner, conversation_id)
        files, seen = attached_paths(value or {}), visible_image(conversation)
        self._cleanup.note(session.id, files)
        choice = choice_of([path.name for path in files], seen)
        which = which if choice else "newest"
        if not files or (which == "first" and seen is not None):
            return choice, await asyncio.to_thread(self._image_files.tile_view, seen)
        shown = files[:1] if which == "first" else files
        try:
            return choice, await asyncio.to_thread(self._image_files.tile_view_of_files, shown, seen, which == "together")
        except DemoError as error:  # shown beside the question only; sending the question shows it as a notice
            return choice, no_tiles(str(error))

    async def preview(self, session: PageSession, conversation_id: str, number: int) -> str:
        """HTML: the tiles that the model saw for the answer with this number."""
        tree = await asyncio.to_thread(self._store.tree, session.owner, conversation_id)
        image = visible_image(tree.up_to(number))
        if image is None:
            raise BadRequest("The model saw no image here.")
        return await asyncio.to_thread(self._image_files.tile_view, image)
