"""The list of an owner's conversations: search, rename, delete and restore, export and import.

The methods block: call them in a thread. Knows nothing of answers that are being written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mllama_demo.chat.export import MAX_FILE_BYTES, from_json
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.config.branding import Brand
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.images.loading import ImageLimits
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.page_update import ListedConversation, PageSession, PageUpdate, Version
from mllama_demo.web.share.export import export

UNTITLED = "Conversation"
ROWS = 200  # of the list, until the visitor asks for more


class ConversationList:
    """Knows for each open page what it searches for and which conversation it deleted last. Safe to use from several threads.

    next_version: Of PageSessions.
    """

    def __init__(
        self,
        store: ConversationStore,
        image_files: ImageFiles,
        limits: ImageLimits,
        next_version: Callable[[str], Version],
        brand: Brand | None = None,
    ) -> None:
        self._store, self._image_files, self._limits, self._brand = store, image_files, limits, brand
        self._searches: dict[str, str] = {}
        self._rows: dict[str, int] = {}
        self._deleted: dict[str, str] = {}
        self._next_version = next_version

    def close_page(self, page_id: str) -> None:
        self._searches.pop(page_id, None)
        self._rows.pop(page_id, None)
        self._deleted.pop(page_id, None)

    def listed(self, session: PageSession) -> PageUpdate:
        """The list on the page: the newest conversations, or the newest of those that the page's search finds."""
        version = self._next_version(session.id)  # before the search is read: `search` sets it before
        words, rows = self._searches.get(session.id, ""), self._rows.get(session.id, ROWS)
        stored = self._store.list(session.owner, limit=rows + 1, search=words)
        found = [ListedConversation(one.title or UNTITLED, one.id, one.updated) for one in stored[:rows]]
        older = len(stored) > rows
        count = "No conversation has" if not found else "1 conversation has" if len(found) == 1 else f"{len(found)} have"
        if older:
            count = f"More than {rows} have"
        sentence = f"{count} “{words}” in title or text." if words else ""
        return PageUpdate(conversations=found, search_result=sentence, older=older, list_version=version)

    def show_older(self, session: PageSession) -> PageUpdate:
        """Lists more conversations than before."""
        self._rows[session.id] = self._rows.get(session.id, ROWS) + ROWS
        return self.listed(session)

    def search(self, session: PageSession, words: str) -> PageUpdate:
        """Lists the conversations that have all these words; without words, all conversations."""
        words = " ".join((words or "").split())
        self._store.list(session.owner, limit=1, search=words)  # raises for a search that is too long
        self._searches[session.id] = words
        self._rows.pop(session.id, None)
        return self.listed(session)

    def rename(self, session: PageSession, id: str, title: str) -> None:
        self._store.rename(session.owner, _existing(id), title)

    def delete(self, session: PageSession, id: str) -> str:
        """Deletes a conversation, which `restore` can undo, and returns its title."""
        title = self._store.load(session.owner, _existing(id)).title or UNTITLED
        self._store.delete(session.owner, id)
        self.purge()
        self._deleted[session.id] = id
        return title

    def purge(self) -> None:
        """Removes what was deleted a while ago for good, with the files of its images."""
        for digest in self._store.purge():
            self._image_files.discard(digest)

    def restore(self, session: PageSession) -> str:
        """Restores the conversation that this page deleted last, and returns its id.

        Raises:
            BadRequest: The page has deleted none.
            NotFound: The conversation was purged.
            BackendUnavailable: The database does not answer. The page can try again.
        """
        id = self._deleted.get(session.id)
        if id is None:
            raise BadRequest("Nothing was deleted on this page that could be brought back.")
        try:
            self._store.restore(session.owner, id)
        except NotFound:
            self._deleted.pop(session.id, None)
            raise
        self._deleted.pop(session.id, None)
        return id

    def export(self, session: PageSession, id: str, kind: str) -> str:
        """The path of a file with the conversation. kind: a format of web.share.export."""
        tree = self._store.tree(session.owner, _existing(id))
        return self._image_files.export(*export(kind, tree, self._image_files.load, self._brand))

    def import_conversation(self, session: PageSession, path: Path) -> MessageTree:
        """Stores the conversation of an exported JSON file as a new conversation of this owner."""
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise BadRequest(f"{path.name} is too large; at most {MAX_FILE_BYTES // 2**20} MiB are allowed.")
            data = path.read_bytes()
        except OSError:
            raise BadRequest(f"{path.name} is no longer there; please choose it again.") from None
        tree = from_json(data, self._store.put_image, self._limits)
        self._store.add_tree(session.owner, tree)
        return tree


def _existing(id: str) -> str:
    if not id:
        raise BadRequest("This chat is empty; there is nothing to rename, export or delete yet.")
    return id
