"""Deletes all data of a kiosk's visitor: rows in the database, image files, and files that were uploaded but never sent.

The methods block: call them in a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from mllama_demo.chat.conversation import ImageRef
from mllama_demo.storage.stores import Stores
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.page_update import PageSession


class SessionCleanup:
    """Knows for each open page the files that were uploaded to it or exported from it. Safe to use from several threads."""

    def __init__(self, stores: Stores, image_files: ImageFiles) -> None:
        self._stores, self._image_files = stores, image_files
        self._files: dict[str, set[Path]] = {}
        self._asked: dict[str, set[str]] = {}

    def note(self, page_id: str, files: Sequence[Path], image: ImageRef | None = None) -> None:
        """Notes files that the page uploaded or exported, and the image of a question, which may be refused and never stored."""
        if files:
            self._files.setdefault(page_id, set()).update(files)
        if image is not None:
            self._asked.setdefault(page_id, set()).add(image.digest)

    def close_page(self, page_id: str) -> None:
        self._files.pop(page_id, None)
        self._asked.pop(page_id, None)

    def erase(self, session: PageSession) -> None:
        """Deletes all data of the page's owner for good. An image that other owners show too is kept."""
        files, digests = self._files.pop(session.id, set()), self._asked.pop(session.id, set())
        digests |= {hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}
        self._erase(session.owner, digests)
        for path in files:
            self._image_files.discard_upload(path)

    def erase_all(self, prefix: str) -> None:
        """Deletes all data of every owner whose name has this prefix, after a program that could not do it before it ended."""
        for owner in self._stores.conversations.owners(prefix):
            self._erase(owner, set())

    def _erase(self, owner: str, digests: set[str]) -> None:
        self._stores.shares.erase(owner)
        self._stores.feedback.erase(owner)
        self._stores.drafts.erase(owner)
        for digest in self._stores.conversations.erase(owner, digests):
            self._image_files.discard(digest)
