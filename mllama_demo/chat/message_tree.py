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
    """A message in its place. number: unique within the tree, in order of coming. parent: the number of the message before it,
    None for the first. chosen: whether it is shown where its parent is; at most one of siblings is."""

    number: int
    parent: int | None
    message: Message
    chosen: bool = True


@dataclass(frozen=True)
class Siblings:
    """A shown message among its siblings. numbers: of all of them, oldest first. index: which is shown, from 0."""

    numbers: tuple[int, ...]
    index: int

    @property
    def number(self) -> int:
        return self.numbers[self.index]


@dataclass(frozen=True)
class MessageTree:
    """Nodes in order of their numbers, so that a parent comes before its children. Siblings differ in their messages."""

    nodes: tuple[Node, ...] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    title: str = ""

    def conversation(self) -> Conversation:
        """What is shown: the chosen messages from the first on, until none is chosen."""
        return Conversation(tuple(node.message for node in self._path()), self.id, self.title)

    def up_to(self, number: int) -> Conversation:
        """The conversation as it is at one node, with everything before it. Raises NotFound."""
        return Conversation(tuple(node.message for node in self._line(number)), self.id, self.title)

    def showing(self, messages: Sequence[Message]) -> MessageTree:
        """This tree, so that it shows exactly `messages`: those it has already are chosen, the others added."""
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

    def choosing(self, number: int) -> MessageTree:
        """This tree, so that it shows the node, and below it what was shown there last or came last. Raises NotFound."""
        path = [node.number for node in self._line(number)]
        children = self._children()
        while below := children[path[-1]]:
            path.append(next((node for node in below if node.chosen), below[-1]).number)
        return replace(self, nodes=_choose(self.nodes, path))

    def versions(self, messages: Iterable[Message]) -> list[Siblings | None]:
        """For each of the messages, from the first on, its place among its siblings; None for those not in the tree."""
        found: list[Siblings | None] = []
        children = self._children()
        parent: int | None = None
        for message in messages:
            siblings = children[parent] if not found or found[-1] else []
            index = next((index for index, node in enumerate(siblings) if node.message == message), None)
            found.append(None if index is None else Siblings(tuple(node.number for node in siblings), index))
            parent = None if index is None else siblings[index].number
        return found

    def below(self, number: int) -> tuple[int, ...]:
        """The numbers of the messages that follow a node, oldest first."""
        return tuple(node.number for node in self._children()[number])

    def _children(self) -> defaultdict[int | None, list[Node]]:
        children: defaultdict[int | None, list[Node]] = defaultdict(list)
        for node in self.nodes:
            children[node.parent].append(node)
        return children

    def _path(self) -> list[Node]:
        children = self._children()
        path: list[Node] = []
        while node := next((node for node in children[path[-1].number if path else None] if node.chosen), None):
            path.append(node)
        return path

    def _line(self, number: int) -> list[Node]:
        known = {node.number: node for node in self.nodes}
        if number not in known:
            raise NotFound(f"This conversation has no version {number}.")
        line = [known[number]]
        while line[-1].parent is not None:
            line.append(known[line[-1].parent])
        return line[::-1]


def _choose(nodes: Sequence[Node], path: Sequence[int], end: bool = False) -> tuple[Node, ...]:
    """The nodes with those on the path chosen, and none beside it. end: nor any after its last one."""
    decided: set[int | None] = {None, *(path if end else path[:-1])}
    on_path = set(path)
    chosen = ((node.number in on_path) if node.parent in decided else node.chosen for node in nodes)
    return tuple(
        node if node.chosen == choice else replace(node, chosen=choice) for node, choice in zip(nodes, chosen, strict=True)
    )
