"""Who may load which image of the chat over HTTP: previews, of conversations and of uploads, and full sizes."""

from __future__ import annotations

import re
from pathlib import Path

from mllama_demo.chat.conversation import ImageRef
from mllama_demo.errors import NotFound
from mllama_demo.generation.tasks import AnswerTasks
from mllama_demo.images.threads import in_image_thread
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.threads import in_database_thread
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.page_update import PAGE_OWNERS

_NO_PICTURE = "There is no such picture."


class ImageAccess:
    """Images are for the owners of conversations that show them. Used from one event loop."""

    def __init__(self, image_files: ImageFiles, store: ConversationStore, answer_tasks: AnswerTasks) -> None:
        self._image_files, self._store, self._answer_tasks = image_files, store, answer_tasks

    async def full_size(self, owner: str, name: str) -> tuple[bytes, str]:
        """An image in full size, and its media type.

        Args:
            name: of the folder of its preview, or its digest.

        Raises:
            NotFound: no conversation of the owner shows the image; not any more, perhaps.
            DemoError: The image cannot be read.
        """
        digest = self._image_files.digest_of_preview(name) or name
        if not re.fullmatch("[0-9a-f]{64}", digest) or not await self._is_shown_to(owner, digest):
            raise NotFound(_NO_PICTURE)
        return await in_image_thread(self._image_files.full_size, ImageRef(digest, "image", 0, 0))

    async def preview(self, owner: str | None, name: str) -> Path:
        """The file of the preview in the folder of this name.

        Args:
            owner: The signed-in user or the visitor's cookie. Without one only images of pages without cookies are allowed.

        Raises:
            NotFound: no conversation of the owner shows the image; not any more, perhaps.
        """
        digest = self._image_files.digest_of_preview(name)
        if digest is None:
            raise NotFound(_NO_PICTURE)
        allowed = owner is not None and await self._is_shown_to(owner, digest)
        # A page without cookies has nothing but the name, which nobody can guess: the browser does not tell which page asks.
        if not allowed and not await in_database_thread(self._store.is_shown_to_page, digest, PAGE_OWNERS):
            asked = (task for prefix in PAGE_OWNERS for task in self._answer_tasks.of_owners(prefix))
            if not any(task.shows(digest) for task in asked):
                raise NotFound(_NO_PICTURE)
        return self._image_files.preview_file(name)

    def upload_preview(self, owner: str | None, name: str) -> Path:
        """The file of the preview of an upload in the folder of this name.

        Args:
            owner: See `preview`.

        Raises:
            NotFound: the owner has not uploaded the image lately.
        """
        uploaders = self._image_files.uploaders(name)
        if owner not in uploaders and not any(one.startswith(PAGE_OWNERS) for one in uploaders):
            raise NotFound(_NO_PICTURE)
        return self._image_files.upload_preview_file(name)

    async def _is_shown_to(self, owner: str, digest: str) -> bool:
        asked = any(task.shows(digest) for task in self._answer_tasks.of_owner(owner))  # and perhaps not stored yet
        return asked or await in_database_thread(self._store.shows_image, owner, digest)
