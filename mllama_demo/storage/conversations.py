"""Conversations and their images in SQL, with all versions of every message; each owner sees only their own.

An owner is an opaque string. No method shows or changes a conversation of another owner. Every method is one short transaction
and may be called from any thread. Knows nothing of models, HTTP or Gradio.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection, RowMapping

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.message_tree import MessageTree, Node
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.storage.database import Database
from mllama_demo.storage.schema import conversations as _conversations
from mllama_demo.storage.schema import images as _images
from mllama_demo.storage.schema import messages as _messages

if TYPE_CHECKING:
    from mllama_demo.images.loading import LoadedImage

MAX_TITLE_LENGTH = 120
MAX_SEARCH_LENGTH = 200
UNUSED_IMAGE_LIFETIME = timedelta(hours=1)
DELETED_LIFETIME = timedelta(minutes=10)  # how long a deleted conversation can be restored

_unused = ~sql.exists().where(_messages.c.image_digest == _images.c.digest)  # the images that no message shows


@dataclass(frozen=True)
class ConversationSummary:
    """One line in a list of conversations. updated: when its messages last changed, UTC."""

    id: str
    title: str
    updated: datetime


Summaries = list[ConversationSummary]  # the class below has a method of the name `list`


class ConversationStore:
    """The conversations of all owners, and the images of their messages."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.purge()

    # --- conversations ---------------------------------------------------------------------------------------------------

    def save(self, owner: str, conversation: Conversation) -> MessageTree:
        """Stores the conversation as it now is, and returns all its versions; what it was before stays as another version.

        Raises NotFound when its id belongs to another owner or was deleted, or an image it names was never put (or not for so
        long that it was cleared away); BadRequest for text that is not Unicode.
        """
        messages = tuple(_plain(message) for message in conversation.messages)
        now = self.database.now()
        with self.database.transaction(write=True) as connection:
            found = _find(connection, conversation.id)
            if found is None:
                values = {"id": conversation.id, "owner": owner, "title": conversation.title, "created": now, "updated": now}
                connection.execute(sql.insert(_conversations).values(values))
            elif found["owner"] != owner or found["deleted"] is not None:
                raise _not_found(conversation.id)
            before = MessageTree(_nodes(connection, conversation.id), conversation.id, conversation.title)
            after = before.with_messages(messages)
            changed = _write(connection, before, after)
            if found is not None and (changed or found["title"] != conversation.title):
                values = {"title": conversation.title, "updated": now if changed else found["updated"]}
                connection.execute(sql.update(_conversations).where(_conversations.c.id == conversation.id).values(values))
        return after

    def load(self, owner: str, id: str) -> Conversation:
        """The conversation as it was saved or chosen last. Raises NotFound for an unknown id and one of another owner alike."""
        return self.tree(owner, id).conversation()

    def tree(self, owner: str, id: str) -> MessageTree:
        """The conversation in all its versions. Raises NotFound as load does."""
        with self.database.transaction() as connection:
            found = _owned(connection, owner, id, lock=False)
            return MessageTree(_nodes(connection, id), id, found["title"])

    def select_version(self, owner: str, id: str, number: int) -> MessageTree:
        """Shows another version, see MessageTree.with_selected; the conversation's place in the list stays. Raises NotFound."""
        with self.database.transaction(write=True) as connection:
            found = _owned(connection, owner, id)
            before = MessageTree(_nodes(connection, id), id, found["title"])
            after = before.with_selected(number)
            _write(connection, before, after)
        return after

    def add_tree(self, owner: str, tree: MessageTree) -> None:
        """Stores a conversation with all its versions under a new id. Raises NotFound for an image that was never put."""
        now = self.database.now()
        with self.database.transaction(write=True) as connection:
            values = {"id": tree.id, "owner": owner, "title": tree.title, "created": now, "updated": now}
            connection.execute(sql.insert(_conversations).values(values))
            nodes = tuple(replace(node, message=_plain(node.message)) for node in tree.nodes)
            _write(connection, MessageTree((), tree.id), replace(tree, nodes=nodes))

    def list(self, owner: str, limit: int = 200, search: str = "") -> Summaries:
        """The owner's conversations, at most `limit`, the last changed first.

        words: only those that have every one of these words, or parts of words, in the title or in a message of any version;
        capital letters are as good as small ones. Raises BadRequest for more than 200 characters of them.
        """
        if len(search) > MAX_SEARCH_LENGTH:
            raise BadRequest(f"A search takes at most {MAX_SEARCH_LENGTH} characters, this one has {len(search)}.")
        c = _conversations.c
        query = sql.select(c.id, c.title, c.updated).where(c.owner == owner, c.deleted.is_(None))
        for word in search.split():
            said = sql.exists().where(_messages.c.conversation_id == c.id, _messages.c.text.icontains(word, autoescape=True))
            query = query.where(c.title.icontains(word, autoescape=True) | said)
        with self.database.transaction() as connection:
            rows = connection.execute(query.order_by(c.updated.desc(), c.id).limit(limit)).all()
        return [ConversationSummary(id, title, updated.replace(tzinfo=timezone.utc)) for id, title, updated in rows]

    def rename(self, owner: str, id: str, title: str) -> None:
        """Gives the conversation another title, 1 to 120 characters after trimming; its place in the list stays."""
        title = title.strip()
        if not 1 <= len(title) <= MAX_TITLE_LENGTH:
            raise BadRequest(f"A title must have 1 to {MAX_TITLE_LENGTH} characters, this one has {len(title)}.")
        with self.database.transaction(write=True) as connection:
            _owned(connection, owner, id)
            connection.execute(sql.update(_conversations).where(_conversations.c.id == id).values(title=title))

    def delete(self, owner: str, id: str) -> None:
        """Deletes the conversation: nothing finds it any more but restore, and that for ten minutes; see purge."""
        with self.database.transaction(write=True) as connection:
            _owned(connection, owner, id)
            connection.execute(sql.update(_conversations).where(_conversations.c.id == id).values(deleted=self.database.now()))

    def restore(self, owner: str, id: str) -> None:
        """Brings a deleted conversation back. Raises NotFound when it is gone for good."""
        with self.database.transaction(write=True) as connection:
            found = _find(connection, id)
            if found is None or found["owner"] != owner:
                raise NotFound("This conversation is gone for good; one that was deleted can be brought back for ten minutes.")
            connection.execute(sql.update(_conversations).where(_conversations.c.id == id).values(deleted=None))

    def purge(self) -> None:
        """Removes for good what was deleted ten minutes ago or earlier, and the images that no message shows any more.

        Clears away images of other conversations too, once an hour has passed since they were put and nothing shows them:
        those that were never sent.
        """
        c = _conversations.c
        now = self.database.now()
        due = c.deleted <= now - DELETED_LIFETIME
        with self.database.transaction(write=True) as connection:
            of_due = _messages.c.conversation_id.in_(sql.select(c.id).where(due))
            shown = _image_digests(connection, of_due)
            connection.execute(sql.delete(_messages).where(of_due))
            connection.execute(sql.delete(_conversations).where(due))
            old = _images.c.created < now - UNUSED_IMAGE_LIFETIME
            connection.execute(sql.delete(_images).where(_images.c.digest.in_(shown) | old, _unused))

    def owners(self, prefix: str) -> set[str]:
        """The owners of conversations, deleted ones too, whose names begin so."""
        c = _conversations.c
        with self.database.transaction() as connection:
            return set(connection.execute(sql.select(c.owner).where(c.owner.startswith(prefix, autoescape=True))).scalars())

    def erase(self, owner: str, images: Collection[str] = ()) -> set[str]:
        """Removes all of the owner's conversations for good, with their images and the named ones, unless somebody else's
        message shows them; the digests of the images that are gone."""
        c = _conversations.c
        with self.database.transaction(write=True) as connection:
            of_owner = _messages.c.conversation_id.in_(sql.select(c.id).where(c.owner == owner))
            shown = _image_digests(connection, of_owner)
            connection.execute(sql.delete(_messages).where(of_owner))
            connection.execute(sql.delete(_conversations).where(c.owner == owner))
            these = sql.and_(_images.c.digest.in_(shown | set(images)), _unused)
            gone = set(connection.execute(sql.select(_images.c.digest).where(these)).scalars())
            connection.execute(sql.delete(_images).where(these))
        return gone

    # --- images ----------------------------------------------------------------------------------------------------------

    def put_image(self, image: LoadedImage) -> ImageRef:
        """Stores the image's file once, however often it is put, and says how messages refer to it."""
        now = self.database.now()
        with self.database.transaction(write=True) as connection:
            renewed = connection.execute(sql.update(_images).where(_images.c.digest == image.digest).values(created=now))
            if renewed.rowcount == 0:
                values = {"digest": image.digest, "format": image.format, "created": now, "data": image.data}
                connection.execute(sql.insert(_images).values(values))
        return ImageRef(image.digest, image.name, image.width, image.height)

    def image_bytes(self, digest: str) -> bytes:
        """The file as it was put. Whoever knows the digest may see it: nobody can guess one. Raises NotFound."""
        with self.database.transaction() as connection:
            data = connection.execute(sql.select(_images.c.data).where(_images.c.digest == digest)).scalar()
        if data is None:
            raise NotFound(f"There is no image with the digest {digest}.")
        return bytes(data)


def _not_found(id: str) -> NotFound:
    return NotFound(f"There is no conversation {id}.")


def _image_digests(connection: Connection, of_messages: sql.ColumnElement[bool]) -> set[str]:
    """The images that these messages show."""
    query = sql.select(_messages.c.image_digest).where(of_messages, _messages.c.image_digest.is_not(None))
    return set(connection.execute(query.distinct()).scalars())


def _find(connection: Connection, id: str, lock: bool = True) -> RowMapping | None:
    query = sql.select(_conversations).where(_conversations.c.id == id)
    return connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()


def _owned(connection: Connection, owner: str, id: str, lock: bool = True) -> RowMapping:
    found = _find(connection, id, lock)
    if found is None or found["owner"] != owner or found["deleted"] is not None:
        raise _not_found(id)
    return found


def _nodes(connection: Connection, id: str) -> tuple[Node, ...]:
    query = sql.select(_messages).where(_messages.c.conversation_id == id).order_by(_messages.c.position)
    rows = connection.execute(query).mappings()
    return tuple(Node(row["position"], row["parent"], _message(row), bool(row["chosen"])) for row in rows)


def _write(connection: Connection, before: MessageTree, after: MessageTree) -> bool:
    """Stores what has changed; whether anything has."""
    old = len(before.nodes)
    rows = [_row(before.id, node) for node in after.nodes[old:]]
    if rows:
        _require_images(connection, rows)
        connection.execute(sql.insert(_messages), rows)
    switched = [now for was, now in zip(before.nodes, after.nodes[:old], strict=True) if was.chosen != now.chosen]
    for node in switched:
        this = (_messages.c.conversation_id == before.id) & (_messages.c.position == node.number)
        connection.execute(sql.update(_messages).where(this).values(chosen=node.chosen))
    return bool(rows or switched)


def _require_images(connection: Connection, rows: list[dict[str, Any]]) -> None:
    wanted = {row["image_digest"] for row in rows} - {None}
    stored = set(connection.execute(sql.select(_images.c.digest).where(_images.c.digest.in_(wanted))).scalars())
    if missing := sorted(wanted - stored):
        raise NotFound(f"The image {missing[0]} is not stored; send it again.")


def _plain(message: Message) -> Message:
    """The message as it will come back, so that it can be compared."""
    return replace(message, metadata=json.loads(json.dumps(message.metadata)))


def _row(id: str, node: Node) -> dict[str, Any]:
    message, image = node.message, node.message.image
    return {
        "conversation_id": id,
        "position": node.number,
        "parent": node.parent,
        "chosen": node.chosen,
        "role": message.role,
        "text": message.text,
        "image_digest": image.digest if image else None,
        "image_name": image.name if image else None,
        "image_width": image.width if image else None,
        "image_height": image.height if image else None,
        "facts": message.metadata,
    }


def _message(row: RowMapping) -> Message:
    image = None
    if row["image_digest"] is not None:
        image = ImageRef(row["image_digest"], row["image_name"], row["image_width"], row["image_height"])
    return Message(row["role"], row["text"], image, row["facts"])
