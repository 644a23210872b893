"""Exports a conversation to a file: JSON, Markdown, or one HTML page that needs no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.export import to_json
from mllama_demo.chat.message_summary import answer_figures, image_seen, images_set_aside, sampling_values
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.chat.rendering import formatted_from, render_answer, render_question
from mllama_demo.config.branding import Brand
from mllama_demo.errors import BadRequest
from mllama_demo.images.loading import LoadedImage
from mllama_demo.images.transforms import preview
from mllama_demo.web.templating import render

Kind = Literal["html", "md", "json"]


def export(kind: str, tree: MessageTree, load: Callable[[ImageRef], LoadedImage], brand: Brand | None = None) -> tuple[str, str]:
    """Returns the name and the content of the file. JSON has every version of a message; HTML and Markdown have the shown one.

    Args:
        kind: "html", "md" or "json".
        load: returns the image of a reference.

    Raises:
        BadRequest: there is no such kind.
    """
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
    """Turns a title into a file name that every file system accepts."""
    stem = re.sub(r"[^\w-]+", "-", title, flags=re.UNICODE).strip("-_")[:60].strip("-_")
    return f"{stem or 'conversation'}.{kind}"


def to_markdown(conversation: Conversation) -> str:
    """Returns Markdown. It names each image with its size, since a Markdown file cannot contain images."""
    parts = [f"# {conversation.display_title}", f"*Exported on {_today()}.*"]
    for message, figures in _turns(conversation):
        parts.append("## Question" if message.role == "user" else "## Answer")
        if message.image is not None:
            parts.append(f"*Image: {message.image.name}, {message.image.width} × {message.image.height} px*")
        if message.text.strip():
            parts.append(message.text.strip())
        if figures:
            parts.append(f"*{figures}*")
    return "\n\n".join(parts) + "\n"


def to_html(
    conversation: Conversation, load: Callable[[ImageRef], LoadedImage], brand: Brand | None = None, dates: str | None = None
) -> str:
    """Returns an HTML page without scripts and external files. Its images are copies without metadata.

    Args:
        dates: the line under the title; by default the date of the export.
    """
    turns = []
    formatted = formatted_from([message.text for message in conversation.messages])
    for index, (message, figures) in enumerate(_turns(conversation)):
        answer = message.role == "assistant"
        image = None
        if message.image is not None:
            data = base64.b64encode(preview(load(message.image))).decode("ascii")
            alt = f"{message.image.name}, {message.image.width} × {message.image.height} pixels"
            image = {"source": f"data:image/webp;base64,{data}", "alt": alt}
        text = (render_answer if answer and index >= formatted else render_question)(message.text)
        turns.append({"answer": answer, "image": image, "text": text, "figures": figures})
    dates = f"Exported on {_today()}" if dates is None else dates
    brand = brand or Brand("Llama 3.2 Vision")
    return render(
        "share/conversation", brand, title=conversation.display_title, dates=dates, turns=turns, text_style=_text_style()
    )


def _turns(conversation: Conversation) -> list[tuple[Message, str]]:
    """Returns each message with the line of figures below it."""
    turns = []
    question = None
    for message in conversation.messages:
        figures = []
        if message.role == "assistant" and message.metadata:
            figures = [image_seen(message.metadata.get("image")), *answer_figures(message)]
            if question is not None and (aside := images_set_aside(question)):
                figures.insert(1, aside)
            if message.metadata.get("sampling"):
                figures.append(sampling_values(message.metadata["sampling"]))
        question = message if message.role == "user" else None
        turns.append((message, " · ".join(figures)))
    return turns


def _today() -> str:
    return f"{datetime.now(timezone.utc):%Y-%m-%d}"


@cache
def _text_style() -> str:
    return (Path(__file__).parents[1] / "static" / "rendered_text.css").read_text(encoding="utf-8")
