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


@dataclass(frozen=True)
class ConversationSummary:
    """One line in a list of conversations.

    Attributes:
        updated: when the messages last changed, UTC.
    """

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

    def save(self, owner: str, conversation: Conversation, begun: MessageTree | None = None) -> MessageTree:
        """Stores a new conversation, or new messages of a stored one; returns all its versions.

        Messages that the stored conversation shows and the new one lacks stay as another version.

        Args:
            begun: what was stored when the last message was begun. A cut-off answer that was stored since is replaced by the last
                message if that begins with its text.

        Raises:
            NotFound: the id belongs to another owner or to a deleted conversation, or the image of a message is not stored.
            BadRequest: a text contains a lone surrogate.
        """
        messages = tuple(_as_stored(message) for message in conversation.messages)
        now = self.database.now()
        with self.database.transaction(write=True) as connection:
            found = _find(connection, conversation.id)
            if found is None:
                values = {"id": conversation.id, "owner": owner, "title": conversation.title, "created": now, "updated": now}
                connection.execute(sql.insert(_conversations).values(values))
            elif found["owner"] != owner or found["deleted"] is not None:
                raise _not_found(conversation.id)
            nodes = _nodes(connection, conversation.id)
            if begun is not None:
                nodes = _with_whole_answer(connection, conversation.id, nodes, begun, messages[-1])
            before = MessageTree(nodes, conversation.id, conversation.title)
            after = before.with_messages(messages)
            changed = _write(connection, before, after)
            if found is not None and (changed or found["title"] != conversation.title):
                values = {"title": conversation.title, "updated": now if changed else found["updated"]}
                connection.execute(sql.update(_conversations).where(_conversations.c.id == conversation.id).values(values))
        return after

    def load(self, owner: str, id: str) -> Conversation:
        """The messages that are shown. Raises NotFound for an unknown id and for a conversation of another owner alike."""
        return self.tree(owner, id).conversation()

    def tree(self, owner: str, id: str) -> MessageTree:
        """The conversation with all its versions. Raises NotFound like load."""
        with self.database.transaction() as connection:
            found = _owned(connection, owner, id, lock=False)
            return MessageTree(_nodes(connection, id), id, found["title"])

    def select_version(self, owner: str, id: str, number: int) -> MessageTree:
        """Shows the version of a message, see MessageTree.with_selected. Does not count as an update. Raises NotFound."""
        with self.database.transaction(write=True) as connection:
            found = _owned(connection, owner, id)
            before = MessageTree(_nodes(connection, id), id, found["title"])
            after = before.with_selected(number)
            _write(connection, before, after)
        return after

    def add_tree(self, owner: str, tree: MessageTree) -> None:
        """Stores a new conversation with all its versions. Raises NotFound when the image of a message is not stored."""
        now = self.database.now()
        with self.database.transaction(write=True) as connection:
            values = {"id": tree.id, "owner": owner, "title": tree.title, "created": now, "updated": now}
            connection.execute(sql.insert(_conversations).values(values))
            nodes = tuple(replace(node, message=_as_stored(node.message)) for node in tree.nodes)
            _write(connection, MessageTree((), tree.id), replace(tree, nodes=nodes))

    def list(self, owner: str, limit: int = 200, search: str = "") -> Summaries:
        """The owner's conversations, at most `limit`, the last updated first.

        Args:
            search: words or parts of words, in any case. Each of them must occur in the title or in a message of any version.
        Raises:
            BadRequest: search has more than 200 characters.
        """
        if len(search) > MAX_SEARCH_LENGTH:
            raise BadRequest(f"A search takes at most {MAX_SEARCH_LENGTH} characters, this one has {len(search)}.")
        c = _conversations.c
        query = sql.select(c.id, c.title, c.updated).where(c.owner == owner, c.deleted.is_(None))
        for word in search.split():
            in_text = _messages.c.text.icontains(word, autoescape=True)
            in_message = sql.exists().where(_messages.c.conversation_id == c.id, in_text)
            query = query.where(c.title.icontains(word, autoescape=True) | in_message)
        with self.database.transaction() as connection:
            rows = connection.execute(query.order_by(c.updated.desc(), c.id).limit(limit)).all()
        return [ConversationSummary(id, title, updated.replace(tzinfo=timezone.utc)) for id, title, updated in rows]

    def rename(self, owner: str, id: str, title: str) -> None:
        """Changes the title: 1 to 120 characters after trimming. Does not count as an update."""
        title = title.strip()
        if not 1 <= len(title) <= MAX_TITLE_LENGTH:
            raise BadRequest(f"A title must have 1 to {MAX_TITLE_LENGTH} characters, this one has {len(title)}.")
        with self.database.transaction(write=True) as connection:
            _owned(connection, owner, id)
            connection.execute(sql.update(_conversations).where(_conversations.c.id == id).values(title=title))

    def delete(self, owner: str, id: str) -> None:
        """Hides the conversation from all methods except restore, which finds it for ten minutes."""
        with self.database.transaction(write=True) as connection:
            _owned(connection, owner, id)
            connection.execute(sql.update(_conversations).where(_conversations.c.id == id).values(deleted=self.database.now()))

    def restore(self, owner: str, id: str) -> None:
        """Restores a deleted conversation. Raises NotFound when it was purged."""
        with self.database.transaction(write=True) as connection:
            found = _find(connection, id)
            if found is None or found["owner"] != owner:
                raise NotFound("This conversation is gone for good; one that was deleted can be brought back for ten minutes.")
            connection.execute(sql.update(_conversations).where(_conversations.c.id == id).values(deleted=None))

    def purge(self) -> set[str]:
        """Removes conversations that were deleted ten minutes ago or earlier, and their images.

        Also removes images that were put an hour ago or earlier and never sent. Images that a message shows stay.

        Returns:
            The digests of the images that were removed.
        """
        now = self.database.now()
        with self.database.transaction(write=True) as connection:
            due = _conversations.c.deleted <= now - DELETED_LIFETIME
            return _delete(connection, due, _images.c.created < now - UNUSED_IMAGE_LIFETIME)

    def owners(self, prefix: str) -> set[str]:
        """The owners, of deleted conversations too, whose names start with the prefix."""
        c = _conversations.c
        with self.database.transaction() as connection:
            return set(connection.execute(sql.select(c.owner).where(c.owner.startswith(prefix, autoescape=True))).scalars())

    def erase(self, owner: str, images: Collection[str] = ()) -> set[str]:
        """Removes all conversations of an owner, with their images.

        Args:
            images: digests of further images to remove. Images that a message of another owner shows stay.
        Returns:
            The digests of the images that were removed.
        """
        with self.database.transaction(write=True) as connection:
            return _delete(connection, _conversations.c.owner == owner, _images.c.digest.in_(images))

    # --- images ----------------------------------------------------------------------------------------------------------

    def put_image(self, image: LoadedImage) -> ImageRef:
        """Stores the image's file, or keeps the stored copy; returns the reference for messages."""
        now = self.database.now()
        with self.database.transaction(write=True) as connection:
            renewed = connection.execute(sql.update(_images).where(_images.c.digest == image.digest).values(created=now))
            if renewed.rowcount == 0:
                values = {"digest": image.digest, "format": image.format, "created": now, "data": image.data}
                connection.execute(sql.insert(_images).values(values))
        return ImageRef.of(image)

    def shows_image(self, owner: str, digest: str) -> bool:
        """Whether a message of the owner shows the image, in any version of a conversation that is not deleted."""
        c, m = _conversations.c, _messages.c
        query = sql.select(m.image_digest).join_from(_messages, _conversations, m.conversation_id == c.id)
        query = query.where(c.owner == owner, c.deleted.is_(None), m.image_digest == digest).limit(1)
        with self.database.transaction() as connection:
            return connection.execute(query).first() is not None

    def is_shown_to_page(self, digest: str, prefixes: Collection[str]) -> bool:
        """Whether a message shows the image to an owner that is one page: its name starts with one of the prefixes."""
        c, m = _conversations.c, _messages.c
        query = sql.select(m.image_digest).join_from(_messages, _conversations, m.conversation_id == c.id)
        page = sql.or_(*(c.owner.startswith(prefix, autoescape=True) for prefix in prefixes))
        with self.database.transaction() as connection:
            found = connection.execute(query.where(page, c.deleted.is_(None), m.image_digest == digest).limit(1)).first()
        return found is not None

    def image_bytes(self, digest: str) -> bytes:
        """The file of an image, for every owner, because nobody can guess a digest. Raises NotFound."""
        with self.database.transaction() as connection:
            data = connection.execute(sql.select(_images.c.data).where(_images.c.digest == digest)).scalar()
        if data is None:
            raise NotFound(f"There is no image with the digest {digest}.")
        return bytes(data)


def _not_found(id: str) -> NotFound:
    return NotFound(f"There is no conversation {id}.")


def _delete(connection: Connection, conversations: sql.ColumnElement[bool], images: sql.ColumnElement[bool]) -> set[str]:
    """Deletes these conversations, and their images and these images unless a message of another conversation shows them.

    Returns:
        The digests of the deleted images.
    """
    of_them = _messages.c.conversation_id.in_(sql.select(_conversations.c.id).where(conversations))
    shown = set(connection.execute(sql.select(_messages.c.image_digest).where(of_them).distinct()).scalars()) - {None}
    connection.execute(sql.delete(_messages).where(of_them))
    connection.execute(sql.delete(_conversations).where(conversations))
    unused = ~sql.exists().where(_messages.c.image_digest == _images.c.digest)
    these = sql.and_(_images.c.digest.in_(shown) | images, unused)
    deleted = set(connection.execute(sql.select(_images.c.digest).where(these)).scalars())
    connection.execute(sql.delete(_images).where(these))
    return deleted


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
    """Stores the nodes that are new or were selected or deselected; returns whether there are any."""
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


def _with_whole_answer(
    connection: Connection, id: str, nodes: tuple[Node, ...], begun: MessageTree, answer: Message
) -> tuple[Node, ...]:
    """The nodes, with the whole answer in place of its recovered draft."""
    known = {node.number for node in begun.nodes}

    def is_draft(node: Node) -> bool:
        is_recovered = node.number not in known and node.parent in known and node.message.metadata.get("reason") == "cut_off"
        return is_recovered and answer.text.startswith(node.message.text)

    draft = next(filter(is_draft, nodes), None)
    if draft is None:
        return nodes
    this = (_messages.c.conversation_id == id) & (_messages.c.position == draft.number)
    connection.execute(sql.update(_messages).where(this).values(text=answer.text, metadata=answer.metadata))
    return tuple(replace(node, message=answer) if node is draft else node for node in nodes)


def _require_images(connection: Connection, rows: list[dict[str, Any]]) -> None:
    wanted = {row["image_digest"] for row in rows} - {None}
    stored = set(connection.execute(sql.select(_images.c.digest).where(_images.c.digest.in_(wanted))).scalars())
    if missing := sorted(wanted - stored):
        raise NotFound(f"The image {missing[0]} is not stored; send it again.")


def _as_stored(message: Message) -> Message:
    """The message as it will be loaded, so that it equals its stored copy."""
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
        "metadata": message.metadata,
    }


def _message(row: RowMapping) -> Message:
    image = None
    if row["image_digest"] is not None:
        image = ImageRef(row["image_digest"], row["image_name"], row["image_width"], row["image_height"])
    return Message(row["role"], row["text"], image, row["metadata"])
