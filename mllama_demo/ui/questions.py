"""The question of each event that starts an answer: ask, retry, edit.

Reads the message tree of the conversation from the database; ChatService.answer works on that tree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mllama_demo.chat.conversation import Conversation
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.generation.service import GenerationService
from mllama_demo.images.threads import in_image_thread
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.threads import in_database_thread
from mllama_demo.ui.history import is_unfinished, load_history
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.page_sessions import PageSessions
from mllama_demo.ui.page_update import NO_INPUT, PageSession, PageUpdate, Version
from mllama_demo.ui.question_edit import QuestionEdit
from mllama_demo.ui.session_cleanup import SessionCleanup
from mllama_demo.ui.user_message import WhichImage, attached_paths, question_from


@dataclass(frozen=True)
class Question:
    """A question for ChatService.answer.

    Attributes:
        conversation: The conversation, with the question as its last message.
        tree: All versions that were stored before the question.
        on_refusal: What the page shows again when the answer cannot begin.
        version: The version of the updates of its answer, see PageUpdate.
        input: The value of the question field once the answer has begun; None leaves it unchanged.
        beginning: The text of an earlier answer, with which the answer goes on; empty for an answer from its first word.
    """

    conversation: Conversation
    tree: MessageTree
    on_refusal: PageUpdate
    version: Version
    input: dict[str, Any] | None = None
    beginning: str = ""


class Questions:
    """Makes questions. A method raises a DemoError when it refuses the conversation or the question; nothing has changed then."""

    def __init__(
        self,
        store: ConversationStore,
        image_files: ImageFiles,
        session_cleanup: SessionCleanup,
        pages: PageSessions,
        generation: GenerationService,
    ) -> None:
        self._generation = generation
        self._store, self._image_files, self._session_cleanup, self._pages = store, image_files, session_cleanup, pages

    async def ask(
        self,
        session: PageSession,
        conversation_id: str,
        value: dict[str, Any],
        which: WhichImage = "newest",
        typed: bool = True,
    ) -> Question:
        """A new question at the end of a conversation.

        Args:
            conversation_id: The conversation; empty for a new one.
            value: The value of the question field.
            which: The image that the model shall see when there are several.
            typed: The question stands in the question field, which is emptied when the answer has begun.
        """
        version = self._pages.next_version(session.id)
        tree = await self._load(session, conversation_id) if conversation_id else MessageTree()
        conversation = tree.conversation()
        value = value or NO_INPUT
        self._session_cleanup.note(session.id, attached_paths(value))
        message = await in_image_thread(question_from, value, conversation, which, self._image_files)
        self._session_cleanup.note(session.id, [], message.image)
        on_refusal = PageUpdate(await self._history(tree), conversation_id=conversation_id, answering=False, version=version)
        if typed:
            on_refusal = replace(on_refusal, input=value)
        self._pages.show(version, tree.id)
        return Question(conversation.add(message), tree, on_refusal, version, NO_INPUT if typed else None)

    async def retry(self, session: PageSession, conversation_id: str) -> Question:
        """The last question again; its answer so far stays as another version."""
        version = self._pages.next_version(session.id)
        tree = await self._load(session, conversation_id)
        conversation = tree.conversation()
        on_refusal = PageUpdate(await self._history(tree), answering=False, version=version)
        self._pages.show(version, tree.id)
        return Question(conversation.cut(last_question(conversation) + 1), tree, on_refusal, version)

    async def go_on(self, session: PageSession, conversation_id: str) -> Question:
        """The last question again, for an answer that goes on where the last one ended. The last one stays as another version."""
        if not self._generation.can_continue:
            raise BadRequest("This backend cannot go on with an answer.")
        question = await self.retry(session, conversation_id)
        last = question.tree.conversation().messages[-1]
        if not is_unfinished(last):
            raise BadRequest("This answer is complete; there is nothing to go on with.")
        return replace(question, beginning=last.text)

    async def edit(
        self, session: PageSession, conversation_id: str, edit: QuestionEdit, input: dict[str, Any] | None = None
    ) -> Question:
        """A question with another text or image. The earlier question, and all that followed, stay as another version.

        Args:
            input: The value of the question field. When the answer cannot begin, the new text and the new image are added to it.
        """
        version = self._pages.next_version(session.id)
        tree = await self._load(session, conversation_id)
        try:
            conversation = tree.up_to(edit.number)
        except NotFound:
            raise BadRequest("Only a question can be edited.") from None
        self._session_cleanup.note(session.id, [edit.file] if edit.file else [])
        edited = await in_image_thread(edit.apply, conversation, self._image_files)
        self._session_cleanup.note(session.id, [], edited.messages[-1].image)
        input = input or NO_INPUT
        text = "\n".join(part for part in (input.get("text"), edit.text) if part and part.strip())
        files = [*(input.get("files") or []), *([str(edit.file)] if edit.file else [])]
        on_refusal = PageUpdate(
            await self._history(tree), answering=False, input={**input, "text": text, "files": files}, version=version
        )
        self._pages.show(version, tree.id)
        return Question(edited, tree, on_refusal, version)

    async def _load(self, session: PageSession, conversation_id: str) -> MessageTree:
        return await in_database_thread(self._store.tree, session.owner, conversation_id)

    async def _history(self, tree: MessageTree) -> list[dict[str, Any]]:
        return await load_history(tree.conversation(), tree, self._image_files, may_continue=self._generation.can_continue)


def last_question(conversation: Conversation) -> int:
    """The index of the last question."""
    for index in range(len(conversation.messages) - 1, -1, -1):
        if conversation.messages[index].role == "user":
            return index
    raise BadRequest("There is no question to go back to.")
