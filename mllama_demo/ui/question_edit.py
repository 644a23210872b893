"""What the editor of a question sends (static/question_editor.js), checked, and the question that it makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.errors import BadRequest
from mllama_demo.ui.gradio_patches.cached_files import is_in_cache
from mllama_demo.ui.image_files import ImageFiles
from mllama_demo.ui.user_message import checked_text

ImageEdit = Literal["keep", "remove", "replace"]


@dataclass(frozen=True)
class QuestionEdit:
    """The new version of a question.

    Attributes:
        number: The number of the question in the message tree.
        image: What happens to the question's image.
        file: The uploaded file of the new image, for "replace".
    """

    number: int
    text: str
    image: ImageEdit = "keep"
    file: Path | None = None

    @staticmethod
    def of(data: Any) -> QuestionEdit:
        """Checks what the browser sent. Raises BadRequest for anything that the editor does not send."""
        data = data if isinstance(data, dict) else {}
        number, text, image, file = (data.get(name) for name in ("number", "text", "image", "file"))
        if (
            not isinstance(number, int)
            or not 0 <= number < 2**31
            or not isinstance(text, str)
            or image not in get_args(ImageEdit)
        ):
            raise BadRequest("The page sent an edit that cannot be read; please reload the page.")
        if image != "replace":
            return QuestionEdit(number, text, image)
        # The browser names a file of this machine: only an uploaded one may be read.
        if not isinstance(file, str) or not is_in_cache(Path(file)):
            raise BadRequest("The new image is no longer there; please add it again.")
        return QuestionEdit(number, text, image, Path(file))

    def apply(self, conversation: Conversation, image_files: ImageFiles) -> Conversation:
        """Replaces the last message of a conversation, which is the question. Blocks: call it in a thread.

        Raises:
            BadRequest: The message is no question, or the new question is empty or too long.
            ImageError: The file is not a supported image.
        """
        question = conversation.messages[-1]
        if question.role != "user":
            raise BadRequest("Only a question can be edited.")
        edited = replace(question, text=checked_text(self.text))
        if self.image == "remove":
            edited = Message("user", edited.text)
        elif self.file is not None:
            edited = Message("user", edited.text, image_files.store_upload(self.file))
        if not edited.text and edited.image is None:
            raise BadRequest("A question needs a few words or an image.")
        return conversation.cut(len(conversation.messages) - 1).add(edited)
