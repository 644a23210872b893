"""All versions of a conversation: a tree of messages, one path of which is shown. Editing and retrying add branches.

Pure data and rules. Knows nothing of databases or Gradio.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.errors import NotFound


@dataclass(frozen=True)
class Node:
    """A message in its place in the tree.

    Attributes:
        number: unique within the tree; a later node has a higher number.
        parent: the number of the preceding message, None for a first message.
        chosen: whether the node is shown when its parent is. At most one node of each parent is chosen.
    """

    number: int
    parent: int | None
    message: Message
    chosen: bool = True


@dataclass(frozen=True)
class Siblings:
    """A shown message among the messages with the same parent.

    Attributes:
        numbers: of all siblings, oldest first.
        index: the position of the shown one in numbers.
    """

    numbers: tuple[int, ...]
    index: int

    @property
    def number(self) -> int:
        return self.numbers[self.index]


@dataclass(frozen=True)
class MessageTree:
    """Nodes in the order of their numbers, so that a parent comes before its children. Siblings have different messages."""

    nodes: tuple[Node, ...] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    title: str = ""

    def conversation(self) -> Conversation:
        """The shown messages: the chosen ones from the first on, until no child is chosen."""
        children = self._children()
        path: list[Node] = []
        while node := next((node for node in children[path[-1].number if path else None] if node.chosen), None):
            path.append(node)
        return self._conversation(path)

    def up_to(self, number: int) -> Conversation:
        """The messages from the first one to a node, shown or not. Raises NotFound."""
        return self._conversation(self._ancestors(number))

    def with_messages(self, messages: Sequence[Message]) -> MessageTree:
        """This tree with exactly these messages shown; messages that it lacks are added."""
        path: list[int] = []
        nodes = list(self.nodes)
        children = self._children()
        for message in messages:
            parent = path[-1] if path else None
            known = next((node for node in children[parent] if node.message == message), None)
            if known is None:
                known = Node(nodes[-1].number + 1 if nodes else 0, parent, message)
                nodes.append(known)
            path.append(known.number)
        return replace(self, nodes=_choose(nodes, path, end=True))

    def with_selected(self, number: int) -> MessageTree:
        """This tree with a node shown. Of its descendants, those last shown are shown, or else the newest. Raises NotFound."""
        path = [node.number for node in self._ancestors(number)]
        children = self._children()
        while below := children[path[-1]]:
            path.append(next((node for node in below if node.chosen), below[-1]).number)
        return replace(self, nodes=_choose(self.nodes, path))

    def siblings(self, messages: Iterable[Message]) -> list[Siblings | None]:
        """For each message of a path that starts at the first message: its siblings, or None when it is not in the tree.

        An answer that failed before its first word counts only while it is the shown one: Retry has taken its place.
        """
        found: list[Siblings | None] = []
        children = self._children()
        parent: int | None = None
        for message in messages:
            siblings = children[parent] if not found or found[-1] else []
            siblings = [node for node in siblings if node.message == message or not node.message.failed]
            index = next((index for index, node in enumerate(siblings) if node.message == message), None)
            found.append(None if index is None else Siblings(tuple(node.number for node in siblings), index))
            parent = None if index is None else siblings[index].number
        return found

    def children(self, number: int) -> tuple[int, ...]:
        """The numbers of a node's children, oldest first."""
        return tuple(node.number for node in self._children()[number])

    def _conversation(self, path: Iterable[Node]) -> Conversation:
        return Conversation(tuple(node.message for node in path), self.id, self.title)

    def _children(self) -> defaultdict[int | None, list[Node]]:
        children: defaultdict[int | None, list[Node]] = defaultdict(list)
        for node in self.nodes:
            children[node.parent].append(node)
        return children

    def _ancestors(self, number: int) -> list[Node]:
        """The path from the first message to a node, which it includes."""
        known = {node.number: node for node in self.nodes}
        if number not in known:
            raise NotFound(f"This conversation has no version {number}.")
        path = [known[number]]
        while path[-1].parent is not None:
            path.append(known[path[-1].parent])
        return path[::-1]


def _choose(nodes: Sequence[Node], path: Sequence[int], end: bool = False) -> tuple[Node, ...]:
    """The nodes with those on the path chosen and their siblings not.

    Args:
        end: whether to choose no child of the path's last node either.
    """
    decided: set[int | None] = {None, *(path if end else path[:-1])}
    on_path = set(path)
    chosen = ((node.number in on_path) if node.parent in decided else node.chosen for node in nodes)
    return tuple(
        node if node.chosen == choice else replace(node, chosen=choice) for node, choice in zip(nodes, chosen, strict=True)
    )
