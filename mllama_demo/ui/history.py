"""A conversation as the chatbot's messages: questions as typed, images, answers with their figures and versions."""

from __future__ import annotations

import asyncio
from typing import Any

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.live_rendering import LiveRendering
from mllama_demo.chat.message_tree import MessageTree, Siblings
from mllama_demo.chat.rendering import formatted_from, render_answer, render_question
from mllama_demo.generation.tasks import AnswerTask
from mllama_demo.images.threads import in_image_thread
from mllama_demo.ui.answer_facts import answer_facts
from mllama_demo.ui.explore_link import explore_link
from mllama_demo.ui.formatting import CONTINUE, NOT_STORED, failure, live_line, progress, versions_bar
from mllama_demo.ui.gradio_patches.image_messages import image_message
from mllama_demo.ui.gradio_patches.message_html import html_part
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.message_actions import answer_actions, question_actions
from mllama_demo.ui.tile_view import NO_IMAGE

# Why an answer ended before the model had finished it.
UNFINISHED = ("max_tokens", "cancelled", "abandoned", "cut_off", "time_limit")


def is_unfinished(message: Message) -> bool:
    """Whether the message is an answer that the model could go on with."""
    return message.role == "assistant" and bool(message.text) and message.metadata.get("reason") in UNFINISHED


def history(
    conversation: Conversation, tree: MessageTree, image_files: ImageFiles, locked: bool = False, may_continue: bool = False
) -> list[dict[str, Any]]:
    """The value of the chatbot.

    Args:
        conversation: The messages to show.
        tree: All versions of these messages. A message that is not in the tree has no versions.
        locked: An answer is being written, so that nothing can be changed.
        may_continue: The backend can go on with an unfinished answer.
    """
    messages = conversation.messages
    siblings = tree.siblings(messages)
    formatted = formatted_from([message.text for message in messages])
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
            if may_continue and last and not locked and is_unfinished(message):
                below += CONTINUE
            text = (render_answer if index >= formatted else render_question)(message.text) if message.text else ""
            shown.append(_assistant_message(text, below + answer_actions(message.text)))
            question = None, None
            continue
        shown.append(_user_message(message, image_files, version.number if version else None, locked))
        question = message, version
        if last and not locked and (bar := versions_bar(version, None, later)):
            shown.append(_assistant_message(bar))
    return shown


async def load_history(
    conversation: Conversation, tree: MessageTree, image_files: ImageFiles, locked: bool = False, may_continue: bool = False
) -> list[dict[str, Any]]:
    """`history` in a thread; where an image may have to be decoded, in a thread for images."""
    has_image = any(message.image is not None for message in conversation.messages)
    run = in_image_thread if has_image else asyncio.to_thread
    return await run(history, conversation, tree, image_files, locked, may_continue)


async def load_tile_view(image_files: ImageFiles, image: ImageRef | None) -> str:
    """HTML: what the model sees of a stored image."""
    return NO_IMAGE if image is None else await in_image_thread(image_files.tile_view, image)


async def live_message(task: AnswerTask, context_length: int | None, rendering: LiveRendering) -> dict[str, Any]:
    """An answer that is being written, as a message."""
    answer = task.answer
    if answer is None or not answer.text:
        return _assistant_message(progress(answer))
    if answer.phase in ("waiting", "reading"):  # an answer that goes on has its text before its next word
        return _assistant_message(await rendering.render(answer.text), progress(answer))
    below = NOT_STORED if task.unsaved else live_line(answer, context_length)
    return _assistant_message(await rendering.render(answer.text), below)


async def draft_message(text: str, rendering: LiveRendering) -> dict[str, Any]:
    """An answer that another process writes or wrote, as a message. text: as far as it is known."""
    return _assistant_message(await rendering.render(text) if text else progress(None))


def _user_message(message: Message, image_files: ImageFiles, number: int | None, locked: bool) -> dict[str, Any]:
    content: list[Any] = []
    if message.image is not None:
        alt_text = f"{message.image.name}, {message.image.width} × {message.image.height} pixels"
        content.append(image_message(image_files.preview(message.image), alt_text))
    text = render_question(message.text) if message.text else ""
    if text or number is not None:
        content.append(html_part(text + question_actions(message.text, number, locked)))
    return {"role": message.role, "content": content}


def _assistant_message(text: str, below: str = "") -> dict[str, Any]:
    parts = [part for part in (text, below) if part] or [""]
    return {"role": "assistant", "content": [html_part(part) for part in parts]}
