"""A conversation: who said what, with which image, and what of it still fits the context.

Pure data and rules. Knows nothing of tokenizers, databases or Gradio.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from mllama_demo.errors import BadRequest

if TYPE_CHECKING:
    from mllama_demo.images.loading import LoadedImage

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class ImageRef:
    """Points at a stored image. digest: sha-256 of its file, hex. name: as the user knows it. Size in pixels, upright."""

    digest: str
    name: str
    width: int
    height: int

    @staticmethod
    def of(image: LoadedImage) -> ImageRef:
        return ImageRef(image.digest, image.name, image.width, image.height)


@dataclass(frozen=True)
class Message:
    """One turn. image: only on user turns. metadata: figures shown under an answer (timings, the image it saw, …)."""

    role: Role
    text: str
    image: ImageRef | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversation:
    """Turns in order, oldest first. Every change makes a new value."""

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

    def image_turn(self) -> int | None:
        """Index of the message whose image the model sees: the newest, since the model takes one image a prompt."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].image is not None:
                return index
        return None


@dataclass(frozen=True)
class Fitted:
    """What goes to the model. dropped: how many of the oldest messages were left out."""

    messages: tuple[Message, ...]
    dropped: int


def fit(messages: tuple[Message, ...], budget: int, count: Callable[[tuple[Message, ...]], int]) -> Fitted:
    """Drops the oldest text turns until count(messages) <= budget tokens.

    The system turn, the turn whose image the model sees and the last turn are never dropped. A user turn takes its answer
    with it, so that what is left still alternates; an answer beside a protected turn goes only when no user turn is left.
    The result may still exceed the budget when nothing is left to drop: the caller decides what to say.
    """
    if not messages:
        raise BadRequest("The conversation is empty; ask something first.")
    kept = list(messages)
    while count(tuple(kept)) > budget:
        protected = {Conversation(tuple(kept)).image_turn(), len(kept) - 1}
        free = [i for i, m in enumerate(kept) if m.role != "system" and i not in protected]
        if not free:
            break
        start = next((i for i in free if kept[i].role == "user"), free[0])
        end = start + 1
        while end in free and kept[end].role == "assistant":
            end += 1
        del kept[start:end]
    return Fitted(tuple(kept), len(messages) - len(kept))
