"""Attachments on their way to the model: fetched, attached to a question that is being written, or seen for an answer."""

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
from mllama_demo.ui.tile_view import not_seen
from mllama_demo.ui.user_message import ImageChoice, WhichImage, choice_of, paths, seen_in


class Attachments:
    """What the page asks about them."""

    def __init__(self, store: ConversationStore, pictures: ImageFiles, traces: SessionCleanup) -> None:
        self._store, self._pictures, self._traces = store, pictures, traces

    async def fetch(self, url: str) -> str:
        """Fetches an image from a web address; the path of the file to attach."""
        return await asyncio.to_thread(self._pictures.fetch, url)

    async def attached(
        self, visit: PageSession, conversation_id: str, value: dict[str, Any], which: WhichImage
    ) -> tuple[ImageChoice | None, str]:
        """What to choose before the question is sent, and what the model would see of it."""
        conversation = Conversation()
        with contextlib.suppress(NotFound):  # not stored before its first answer begins
            if conversation_id:
                conversation = await asyncio.to_thread(self._store.load, visit.owner, conversation_id)
        files, seen = paths(value or {}), seen_in(conversation)
        self._traces.note(visit.session, files)
        choice = choice_of([path.name for path in files], seen)
        which = which if choice else "newest"
        if not files or (which == "first" and seen is not None):
            return choice, await asyncio.to_thread(self._pictures.sight, seen)
        shown = files[:1] if which == "first" else files
        try:
            return choice, await asyncio.to_thread(self._pictures.sight_of, shown, seen, which == "together")
        except DemoError as error:  # said in the panel alone: sending it will say so in a notice
            return choice, not_seen(str(error))

    async def look(self, visit: PageSession, conversation_id: str, number: int) -> str:
        """HTML: what the model saw for one answer."""
        tree = await asyncio.to_thread(self._store.tree, visit.owner, conversation_id)
        image = seen_in(tree.up_to(number))
        if image is None:
            raise BadRequest("The model saw no image here.")
        return await asyncio.to_thread(self._pictures.sight, image)
