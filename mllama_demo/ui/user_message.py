"""From what the input box sends to a question, and what becomes of a second image: the model takes one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.errors import BadRequest
from mllama_demo.ui.image_files import ImageFiles

MAX_QUESTION_CHARACTERS = 20_000
MAX_FILES = 4
WORD_JOINER = "\u2060"
WhichImage = Literal["newest", "first", "together"]


@dataclass(frozen=True)
class ImageChoice:
    """What the page asks before two images meet. options: pairs of label and WhichImage; sentence: why one must be chosen."""

    sentence: str
    options: tuple[tuple[str, WhichImage], ...]


def question_from(value: dict[str, Any], conversation: Conversation, which: WhichImage, pictures: ImageFiles) -> Message:
    """The question to add to the conversation. value: from the input box. Raises BadRequest and ImageError with a sentence."""
    text = checked(value.get("text") or "")
    files = paths(value)
    if not text and not files:
        raise BadRequest("Type a question, or add an image.")
    if len(files) > MAX_FILES:
        raise BadRequest(f"A question takes at most {MAX_FILES} images, this one has {len(files)}.")
    new = [pictures.take(path) for path in files]
    image, aside = _decide(new, seen_in(conversation), which, pictures)
    return Message("user", text, image, {"set_aside": [ref.name for ref in aside]} if aside else {})


def reworded(conversation: Conversation, index: int, text: str) -> Message:
    """The question with this index in other words, its image with it. Raises BadRequest."""
    if not (0 <= index < len(conversation.messages)) or conversation.messages[index].role != "user":
        raise BadRequest("Only a question can be edited.")
    message = replace(conversation.messages[index], text=checked(text))
    if not message.text and message.image is None:
        raise BadRequest("A question needs a few words or an image.")
    return message


def _decide(
    new: list[ImageRef], seen: ImageRef | None, which: WhichImage, pictures: ImageFiles
) -> tuple[ImageRef | None, list[ImageRef]]:
    """The image of the question, None to go on with the one that is seen; and those of the new ones that are left out."""
    everything = [seen, *new] if seen else new
    if len(everything) < 2 or not new:
        return (new[0] if new else None), []
    if which == "together":
        return pictures.join(everything), []
    if which == "first":
        return (None, new) if seen else (new[0], new[1:])
    if which == "newest":
        return new[-1], new[:-1]
    raise BadRequest(f"WhichImage image the model sees is newest, first or together, not {which!r}.")


def choice_of(names: Sequence[str], seen: ImageRef | None) -> ImageChoice | None:
    """What to ask about the images that are about to be sent; None when there is nothing to choose. names: of the new ones."""
    if not names or len(names) + (seen is not None) < 2:
        return None
    first = seen.name if seen else names[0]
    return ImageChoice(
        "The model looks at one image at a time.",
        (
            (f"The {'new one' if len(names) == 1 else 'last one'}: {names[-1]}", "newest"),
            (f"{'Stay with' if seen else 'The first one:'} {first}", "first"),
            (
                "All side by side, as one picture" if len(names) + bool(seen) > 2 else "Both side by side, as one picture",
                "together",
            ),
        ),
    )


def paths(value: dict[str, Any]) -> list[Path]:
    """The files in the input box."""
    return [Path(file["path"] if isinstance(file, dict) else file) for file in value.get("files") or []]


def seen_in(conversation: Conversation) -> ImageRef | None:
    """The image that the model sees in this conversation."""
    turn = conversation.image_turn()
    return None if turn is None else conversation.messages[turn].image


def checked(text: str) -> str:
    """The text of a question, trimmed. Raises BadRequest for what cannot be stored or is too long."""
    text = text.strip()
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRequest("The question contains half a character, which cannot be stored; please type it again.")
    if len(text) > MAX_QUESTION_CHARACTERS:
        raise BadRequest(f"The question has {len(text)} characters; at most {MAX_QUESTION_CHARACTERS} are allowed.")
    return text


def as_typed(text: str) -> str:
    """A question for the page, where "<b>" would be taken for a tag and "&lt;" for a sign: an invisible joiner prevents it."""
    return re.sub(r"<(?=[A-Za-z/!?])|&(?=[A-Za-z#])", lambda found: found[0] + WORD_JOINER, text)


def from_page(text: str) -> str:
    """What was typed into a question that the page had from as_typed."""
    return text.replace("<" + WORD_JOINER, "<").replace("&" + WORD_JOINER, "&")
