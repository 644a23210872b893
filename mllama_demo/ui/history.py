"""A conversation as the chatbot shows it: questions as typed, pictures, answers with their figures and versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.components.chatbot import ComponentMessage

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.chat.message_tree import MessageTree, Siblings
from mllama_demo.generation.service import Answer
from mllama_demo.ui.formatting import facts_line, live_line, progress, versions_bar
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.user_message import as_typed

# Made here, for while an event is handled Gradio takes components for updates.
_PICTURE = gr.Image(render=False, show_label=False, format="webp").get_config()


def history(conversation: Conversation, tree: MessageTree, pictures: ImageFiles, locked: bool = False) -> list[dict[str, Any]]:
    """The chatbot's value. tree: with the versions of the messages. locked: an answer is under way, so nothing can be changed."""
    messages = conversation.messages
    versions = tree.siblings(messages)
    turns: list[dict[str, Any]] = []
    question: tuple[Message | None, Siblings | None] = None, None
    for index, (message, version) in enumerate(zip(messages, versions, strict=True)):
        last = index == len(messages) - 1
        later = tree.children(version.number) if last and version else ()
        if message.role == "assistant":
            facts = facts_line(message, version.number if version else None, question[0])
            turns.append(_bot(message.text, facts + versions_bar(question[1], version, later, locked)))
            question = None, None
            continue
        turns.append(_asked(message, pictures))
        question = message, version
        if last and not locked and (bar := versions_bar(version, None, later)):
            turns.append(_bot(bar))
    return turns


def under_way(answer: Answer | None, context_length: int) -> dict[str, Any]:
    """The turn of an answer that is not done yet."""
    if answer is None or not answer.text:
        return _bot(progress(answer))
    return _bot(answer.text, live_line(answer, context_length))


def _asked(message: Message, pictures: ImageFiles) -> dict[str, Any]:
    content: list[Any] = []
    if message.image is not None:
        alt = f"{message.image.name}, {message.image.width} × {message.image.height} pixels"
        content.append(_picture(pictures.shown(message.image), alt))
    if message.text:
        content.append({"type": "text", "text": as_typed(message.text)})
    return {"role": message.role, "content": content}


def _picture(path: str, alt: str) -> ComponentMessage:
    """A component, since the chatbot shows the alternative text of no other kind of picture.

    Ready as the chatbot sends it. It would make a gr.Image anew, and copy its file, in each of the dozen updates a second.
    """
    # Not marked as one of Gradio's files, which it would look for on the disk in each of them.
    value = {"path": path, "url": f"gradio_api/file={quote(path)}", "orig_name": Path(path).name, "mime_type": "image/webp"}
    return ComponentMessage(component="image", value=value, constructor_args={}, props={**_PICTURE, "alt_text": alt})


def _bot(text: str, below: str = "") -> dict[str, Any]:
    content = [{"type": "text", "text": text}]
    if below:
        content.append({"type": "text", "text": below})
    return {"role": "assistant", "content": content}
