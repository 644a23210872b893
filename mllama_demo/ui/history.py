"""A conversation as the chatbot's messages: questions as typed, images, answers with their figures and versions."""

from __future__ import annotations

from typing import Any

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.chat.live_rendering import LiveRendering
from mllama_demo.chat.message_tree import MessageTree, Siblings
from mllama_demo.chat.rendering import render_answer, render_question
from mllama_demo.generation.service import Answer
from mllama_demo.ui.answer_facts import answer_facts
from mllama_demo.ui.explore_link import explore_link
from mllama_demo.ui.formatting import failure, live_line, progress, versions_bar
from mllama_demo.ui.gradio_patches.image_messages import image_message
from mllama_demo.ui.gradio_patches.message_html import html_part
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.message_actions import answer_actions, question_actions


def history(conversation: Conversation, tree: MessageTree, image_files: ImageFiles, locked: bool = False) -> list[dict[str, Any]]:
    """The value of the chatbot.

    Args:
        conversation: The messages to show.
        tree: All versions of these messages. A message that is not in the tree has no versions.
        locked: An answer is being written, so that nothing can be changed.
    """
    messages = conversation.messages
    siblings = tree.siblings(messages)
    shown: list[dict[str, Any]] = []
    question: tuple[Message | None, Siblings | None] = None, None
    for index, (message, version) in enumerate(zip(messages, siblings, strict=True)):
        last = index == len(messages) - 1
        later = tree.children(version.number) if last and version else ()
        if message.role == "assistant":
            metadata = "" if message.failed else answer_facts(message, version.number if version else None, question[0])
            if version and message.text:
                metadata += explore_link(conversation.id, version.number)
            below = failure(message, last and not locked) + metadata + versions_bar(question[1], version, later, locked)
            text = render_answer(message.text) if message.text else ""
            shown.append(_assistant_message(text, below + answer_actions(message.text)))
            question = None, None
            continue
        shown.append(_user_message(message, image_files, version.number if version and not locked else None))
        question = message, version
        if last and not locked and (bar := versions_bar(version, None, later)):
            shown.append(_assistant_message(bar))
    return shown


async def live_message(answer: Answer | None, context_length: int, rendering: LiveRendering) -> dict[str, Any]:
    """An answer that is being written, as a message."""
    if answer is None or not answer.text:
        return _assistant_message(progress(answer))
    return _assistant_message(await rendering.render(answer.text), live_line(answer, context_length))


def _user_message(message: Message, image_files: ImageFiles, number: int | None) -> dict[str, Any]:
    content: list[Any] = []
    if message.image is not None:
        alt_text = f"{message.image.name}, {message.image.width} × {message.image.height} pixels"
        content.append(image_message(image_files.preview(message.image), alt_text))
    text = render_question(message.text) if message.text else ""
    if text or number is not None:
        content.append(html_part(text + question_actions(message.text, number)))
    return {"role": message.role, "content": content}


def _assistant_message(text: str, below: str = "") -> dict[str, Any]:
    parts = [part for part in (text, below) if part] or [""]
    return {"role": "assistant", "content": [html_part(part) for part in parts]}
