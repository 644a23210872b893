"""A conversation as a file for people: Markdown, or one web page that needs no other file and prints well."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import datetime, timezone
from functools import cache
from typing import Any, Literal, get_args

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.export import to_json
from mllama_demo.chat.message_summary import answer_figures, image_seen, images_set_aside, sampling_values
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.config.branding import Brand
from mllama_demo.errors import BadRequest
from mllama_demo.images.loading import LoadedImage
from mllama_demo.images.transforms import preview
from mllama_demo.web.templating import render

Kind = Literal["html", "md", "json"]


def export(kind: str, tree: MessageTree, load: Callable[[ImageRef], LoadedImage], brand: Brand | None = None) -> tuple[str, str]:
    """The name and the content of the file. JSON has every version, the others what is shown. Raises BadRequest."""
    conversation = tree.conversation()
    name = file_name(conversation.display_title, kind)
    if kind == "json":
        return name, to_json(tree, load)
    if kind == "md":
        return name, to_markdown(conversation)
    if kind == "html":
        return name, to_html(conversation, load, brand)
    raise BadRequest(f"A conversation can be exported as {', '.join(get_args(Kind))}, not as {kind!r}.")


def file_name(title: str, kind: str) -> str:
    """A name that every file system takes, from the title."""
    words = re.sub(r"[^\w-]+", "-", title, flags=re.UNICODE).strip("-_")[:60].strip("-_")
    return f"{words or 'conversation'}.{kind}"


def to_markdown(conversation: Conversation) -> str:
    """Markdown; images by name and size, since a Markdown file cannot hold them."""
    parts = [f"# {conversation.display_title}", f"*Exported on {_today()}.*"]
    for message, notes in _turns(conversation):
        parts.append("## Question" if message.role == "user" else "## Answer")
        if message.image is not None:
            parts.append(f"*Image: {message.image.name}, {message.image.width} × {message.image.height} px*")
        if message.text.strip():
            parts.append(message.text.strip())
        if notes:
            parts.append(f"*{notes}*")
    return "\n\n".join(parts) + "\n"


def to_html(
    conversation: Conversation, load: Callable[[ImageRef], LoadedImage], brand: Brand | None = None, dates: str | None = None
) -> str:
    """One web page with everything in it: no script, nothing fetched, pictures as copies without metadata.

    dates: what stands under the title; None: that it is an export of today.
    """
    turns = []
    for message, notes in _turns(conversation):
        answer = message.role == "assistant"
        picture = None
        if message.image is not None:
            data = base64.b64encode(preview(load(message.image))).decode("ascii")
            alt = f"{message.image.name}, {message.image.width} × {message.image.height} pixels"
            picture = {"source": f"data:image/webp;base64,{data}", "alt": alt}
        # An answer is Markdown; a question is shown as it was typed.
        text = _markdown().render(message.text) if answer else message.text
        turns.append({"answer": answer, "picture": picture, "text": text, "notes": notes})
    dates = f"Exported on {_today()}" if dates is None else dates
    brand = brand or Brand("Llama 3.2 Vision")
    return render("share/conversation", brand, title=conversation.display_title, dates=dates, turns=turns)


def _turns(conversation: Conversation) -> list[tuple[Message, str]]:
    """Each message with what is to be said under it."""
    turns = []
    question = None
    for message in conversation.messages:
        notes = []
        if message.role == "assistant" and message.metadata:
            notes = [image_seen(message.metadata.get("image")), *answer_figures(message)]
            if question is not None and (aside := images_set_aside(question)):
                notes.insert(1, aside)
            if message.metadata.get("sampling"):
                notes.append(sampling_values(message.metadata["sampling"]))
        question = message if message.role == "user" else None
        turns.append((message, " · ".join(notes)))
    return turns


def _today() -> str:
    return f"{datetime.now(timezone.utc):%Y-%m-%d}"


@cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table")
