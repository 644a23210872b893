"""The conversations of a visitor as a list: search, rename, delete and bring back, export and import.

Blocks: call it in a thread. Knows nothing of answers under way.
"""

from __future__ import annotations

from pathlib import Path

from mllama_demo.chat.export import MAX_FILE_BYTES, from_json
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.config.branding import Brand
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.images.loading import ImageLimits
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.page_update import PageSession, PageUpdate
from mllama_demo.web.share.export import export


class ConversationList:
    """Remembers for each open page what it searches for and what it deleted last. Safe to use from several threads."""

    def __init__(self, store: ConversationStore, pictures: ImageFiles, limits: ImageLimits, brand: Brand | None = None) -> None:
        self._store, self._pictures, self._limits, self._brand = store, pictures, limits, brand
        self._words: dict[str, str] = {}
        self._deleted: dict[str, str] = {}

    def leave(self, session: str) -> None:
        """The page was closed."""
        self._words.pop(session, None)
        self._deleted.pop(session, None)

    def listed(self, visit: PageSession) -> PageUpdate:
        """The list as the page has it: all conversations, or those that its search finds."""
        words = self._words.get(visit.session, "")
        found = [(summary.title or "Conversation", summary.id) for summary in self._store.list(visit.owner, search=words)]
        if not words:
            return PageUpdate(conversations=found, found="")
        count = "No conversation has" if not found else "1 conversation has" if len(found) == 1 else f"{len(found)} have"
        return PageUpdate(conversations=found, found=f"{count} “{words}” in title or text.")

    def search(self, visit: PageSession, words: str) -> PageUpdate:
        """Lists only the conversations with all of these words; all again for none."""
        words = " ".join((words or "").split())
        self._store.list(visit.owner, limit=1, search=words)  # raises for too many of them
        self._words[visit.session] = words
        return self.listed(visit)

    def rename(self, visit: PageSession, id: str, title: str) -> None:
        self._store.rename(visit.owner, _existing(id), title)

    def delete(self, visit: PageSession, id: str) -> str:
        """Deletes a conversation; its title. restore brings it back."""
        title = self._store.load(visit.owner, _existing(id)).title or "Conversation"
        self._store.delete(visit.owner, id)
        self._store.purge()
        self._deleted[visit.session] = id
        return title

    def restore(self, visit: PageSession) -> str:
        """Brings back what this page deleted last; its id. When the database does not answer, it can be tried again."""
        id = self._deleted.get(visit.session)
        if id is None:
            raise BadRequest("Nothing was deleted on this page that could be brought back.")
        try:
            self._store.restore(visit.owner, id)
        except NotFound:  # gone for good
            self._deleted.pop(visit.session, None)
            raise
        self._deleted.pop(visit.session, None)
        return id

    def export(self, visit: PageSession, id: str, kind: str) -> str:
        """The path of a file with the conversation. kind: see export.Kind."""
        tree = self._store.tree(visit.owner, _existing(id))
        return self._pictures.export(*export(kind, tree, self._pictures.load, self._brand))

    def import_conversation(self, visit: PageSession, path: Path) -> MessageTree:
        """Stores the conversation of an exported JSON file as a new one of the visitor's."""
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise BadRequest(f"{path.name} is too large; at most {MAX_FILE_BYTES // 2**20} MiB are allowed.")
            data = path.read_bytes()
        except OSError:
            raise BadRequest(f"{path.name} is no longer there; please choose it again.") from None
        tree = from_json(data, self._store.put_image, self._limits)
        self._store.add_tree(visit.owner, tree)
        return tree


def _existing(id: str) -> str:
    if not id:
        raise BadRequest("This chat is empty; there is nothing to rename, export or delete yet.")
    return id
