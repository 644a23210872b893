"""What a kiosk's visitors leave behind, and its removal: rows of the database, files of pictures, what was only attached.

Blocks: call it in a thread.
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
    """Remembers for each open page the files that were uploaded to it, or exported from it. Safe to use from several threads."""

    def __init__(self, stores: Stores, pictures: ImageFiles) -> None:
        self._store, self._pictures, self._feedback = stores.conversations, pictures, stores.feedback
        self._shares, self._drafts = stores.shares, stores.drafts
        self._uploads: dict[str, set[Path]] = {}
        self._asked: dict[str, set[str]] = {}

    def note(self, session: str, uploads: Sequence[Path], image: ImageRef | None = None) -> None:
        """uploads: files that the page has attached or made; image: of its question, which may never be stored with one."""
        if uploads:
            self._uploads.setdefault(session, set()).update(uploads)
        if image is not None:
            self._asked.setdefault(session, set()).add(image.digest)

    def leave(self, session: str) -> None:
        """The page was closed."""
        self._uploads.pop(session, None)
        self._asked.pop(session, None)

    def erase(self, visit: PageSession) -> None:
        """Removes all of the visitor's at once and for good. An image that other visitors show too stays theirs."""
        uploads, asked = self._uploads.pop(visit.session, set()), self._asked.pop(visit.session, set())
        asked |= {hashlib.sha256(path.read_bytes()).hexdigest() for path in uploads if path.is_file()}
        self._erase(visit.owner, asked)
        for path in uploads:
            self._pictures.discard_upload(path)

    def erase_all(self, prefix: str) -> None:
        """The same for every owner whose name begins so: what a program that ended abruptly left."""
        for owner in self._store.owners(prefix):
            self._erase(owner, set())

    def _erase(self, owner: str, images: set[str]) -> None:
        self._shares.erase(owner)
        self._feedback.erase(owner)
        self._drafts.erase(owner)
        for digest in self._store.erase(owner, images):
            self._pictures.discard(digest)
