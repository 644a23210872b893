"""Makes a question from the value of the question field. The model takes one image: decides which one of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.errors import BadRequest
from mllama_demo.ui.image_files import ImageFiles

MAX_QUESTION_CHARACTERS = 20_000
MAX_FILES = 4
WhichImage = Literal["newest", "first", "together"]


@dataclass(frozen=True)
class ImageChoice:
    """What the visitor chooses when a question would have several images.

    Attributes:
        sentence: Why a choice is needed.
        options: Pairs of label and WhichImage.
    """

    sentence: str
    options: tuple[tuple[str, WhichImage], ...]


def question_from(value: dict[str, Any], conversation: Conversation, which: WhichImage, image_files: ImageFiles) -> Message:
    """The question to add to the conversation.

    Args:
        value: The value of the question field.
        conversation: The conversation before the question.
        which: Which image the model shall see when there are several.
        image_files: Stores the attached files.

    Raises:
        BadRequest: The question is empty or too long, or has too many images.
        ImageError: A file is not a supported image.
    """
    text = checked_text(value.get("text") or "")
    files = attached_paths(value)
    if not text and not files:
        raise BadRequest("Type a question, or add an image.")
    if len(files) > MAX_FILES:
        raise BadRequest(f"A question takes at most {MAX_FILES} images, this one has {len(files)}.")
    new = [image_files.store_upload(path) for path in files]
    image, set_aside = _select_image(new, visible_image(conversation), which, image_files)
    return Message("user", text, image, {"set_aside": [ref.name for ref in set_aside]} if set_aside else {})


def _select_image(
    new: list[ImageRef], seen: ImageRef | None, which: WhichImage, image_files: ImageFiles
) -> tuple[ImageRef | None, list[ImageRef]]:
    """Selects the image of a question.

    Returns:
        The image, None to keep the one that the model sees already; and the new images that are set aside.
    """
    all_images = [seen, *new] if seen else new
    if len(all_images) < 2 or not new:
        return (new[0] if new else None), []
    if which == "together":
        return image_files.join(all_images), []
    if which == "first":
        return (None, new) if seen else (new[0], new[1:])
    if which == "newest":
        return new[-1], new[:-1]
    raise BadRequest(f"The image that the model sees is newest, first or together, not {which!r}.")


def choice_of(names: Sequence[str], seen: ImageRef | None) -> ImageChoice | None:
    """What the visitor must choose before sending; None when there is no choice.

    Args:
        names: The file names of the new images.
        seen: The image that the model sees already.
    """
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


def attached_paths(value: dict[str, Any]) -> list[Path]:
    """The files in a value of the question field."""
    return [Path(file["path"] if isinstance(file, dict) else file) for file in value.get("files") or []]


def visible_image(conversation: Conversation) -> ImageRef | None:
    """The image that the model sees in this conversation."""
    turn = conversation.image_turn()
    return None if turn is None else conversation.messages[turn].image


def checked_text(text: str) -> str:
    """The text of a question, trimmed. Raises BadRequest for a text that cannot be stored or is too long."""
    text = text.strip()
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRequest("The question contains half a character, which cannot be stored; please type it again.")
    if len(text) > MAX_QUESTION_CHARACTERS:
        raise BadRequest(f"The question has {len(text)} characters; at most {MAX_QUESTION_CHARACTERS} are allowed.")
    return text
