"""A conversation: its messages with their images, and which of them fit the context.

Pure data and rules. Knows nothing of tokenizers, databases or Gradio.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from mllama_demo.errors import BadRequest

if TYPE_CHECKING:
    from mllama_demo.images.loading import LoadedImage

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class ImageRef:
    """A reference to a stored image.

    Attributes:
        digest: sha-256 of its file, hex.
        name: the user's name for the file.
        width, height: pixels of the upright image.
    """

    digest: str
    name: str
    width: int
    height: int

    @staticmethod
    def of(image: LoadedImage) -> ImageRef:
        return ImageRef(image.digest, image.name, image.width, image.height)


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        image: only of a user's turn.
        metadata: of an answer, its sampling parameters, timings and image; see export.Metadata for the keys.
    """

    role: Role
    text: str
    image: ImageRef | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether this is an answer that failed before its first word."""
        return self.role == "assistant" and not self.text and self.metadata.get("reason") == "error"


@dataclass(frozen=True)
class Conversation:
    """Messages, oldest first. Immutable: each method returns a new conversation."""

    messages: tuple[Message, ...] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    title: str = ""

    def add(self, message: Message) -> Conversation:
        return replace(self, messages=(*self.messages, message))

    def cut(self, length: int) -> Conversation:
        """The first `length` messages."""
        return replace(self, messages=self.messages[:length])

    @property
    def display_title(self) -> str:
        """The title, or how the conversation began when it has none."""
        if self.title:
            return self.title
        first = next((m for m in self.messages if m.role == "user"), None)
        if first is None:
            return "New chat"
        text = " ".join(first.text.split()) or (first.image.name if first.image else "Image")
        return text if len(text) <= 48 else text[:47].rstrip() + "…"

    def without_failures(self) -> Conversation:
        """Without the questions whose answers failed before the first word, and without these answers.

        The image of such a question moves to the next question that has none: the visitor still sees it and goes on about it.
        """
        kept: list[Message] = []
        image: ImageRef | None = None
        for message in self.messages:
            if message.failed:
                if kept and kept[-1].role == "user":
                    image = kept.pop().image or image
                continue
            if image is not None and message.role == "user":
                message, image = (message if message.image else replace(message, image=image)), None
            kept.append(message)
        return replace(self, messages=tuple(kept))

    def image_turn(self) -> int | None:
        """Index of the message whose image the model sees: the newest one, because a prompt has one image at most."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].image is not None:
                return index
        return None


@dataclass(frozen=True)
class Fitted:
    """The messages that go to the model, and how many of the oldest were left out."""

    messages: tuple[Message, ...]
    dropped: int


def fit(messages: tuple[Message, ...], budget: int, count: Callable[[tuple[Message, ...]], int]) -> Fitted:
    """Drops the oldest turns until count(messages) <= budget, in tokens.

    The system turn, the turn whose image the model sees and the last turn are never dropped. A user turn is dropped with its
    answer, so that the remaining turns alternate. The answer to a turn that is never dropped goes last. The result exceeds the
    budget when nothing is left to drop.

    Args:
        count: called a few times for a conversation of any length. Fewer turns must not have more tokens.
    """
    if not messages:
        raise BadRequest("The conversation is empty; ask something first.")
    groups = _droppable(messages)

    def without(number: int) -> tuple[Message, ...]:
        dropped = {index for group in groups[:number] for index in group}
        return tuple(message for index, message in enumerate(messages) if index not in dropped)

    kept = messages
    if groups and count(kept) > budget:
        kept = without(1 + bisect_left(range(1, len(groups)), True, key=lambda number: count(without(number)) <= budget))
    return Fitted(kept, len(messages) - len(kept))


def _droppable(messages: tuple[Message, ...]) -> list[list[int]]:
    """Indices of the turns that may be dropped, in groups that are dropped together, the first group first."""
    protected = {Conversation(messages).image_turn(), len(messages) - 1}
    questions: list[list[int]] = []  # each with its answers
    answers: list[list[int]] = []  # to turns that are never dropped
    group: list[int] | None = None
    for index, message in enumerate(messages):
        if message.role == "system" or index in protected:
            group = None
            continue
        if message.role == "user" or group is None:
            group = []
            (questions if message.role == "user" else answers).append(group)
        group.append(index)
    return questions + answers
