"""The way between the chat and Explore: an answer of the chat as a grid, and an answer of a run as a conversation of the chat.

Both ways lead through the stored conversations. Knows no Gradio and no HTTP.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlencode

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.errors import BadRequest
from mllama_demo.explore.grid import AXES
from mllama_demo.explore.results import Run
from mllama_demo.explore.runner import conversation_of
from mllama_demo.images.loading import ImageLimits, LoadedImage, load_image
from mllama_demo.sampling import BOUNDS
from mllama_demo.storage.conversations import ConversationStore

# An image of the chat as the page of Explore names it: the conversation and the number of the answer that saw the image.
_IMAGE_SOURCE = re.compile(r"chat:([^:]{1,255}):(\d{1,9})")


@dataclass(frozen=True)
class _Question:
    """What an answer of the chat answers: the messages before it, the last one being the question, and its sampling values."""

    messages: tuple[Message, ...]
    sampling: dict[str, Any]

    @property
    def image_turn(self) -> int | None:
        return Conversation(self.messages).image_turn()

    @property
    def image(self) -> ImageRef | None:
        return None if self.image_turn is None else self.messages[self.image_turn].image


class ChatLink:
    """Reads answers of the chat, and writes conversations that continue an answer of a run."""

    def __init__(self, conversations: ConversationStore, limits: ImageLimits) -> None:
        self._conversations, self._limits = conversations, limits

    def grid_values(self, owner: str, conversation_id: str, number: int) -> dict[str, Any]:
        """The fields of a grid that repeats an answer of the chat, for the form of the page.

        Args:
            number: of the answer in the message tree.
        Returns:
            prompt, history, the sampling values, and image: its name and its source, see load_image; None without an image.
        Raises:
            NotFound: the owner has no such answer.
        """
        question = self._question(owner, conversation_id, number)
        turn = question.image_turn
        history = [
            {"role": message.role, "text": message.text, "image": index == turn}
            for index, message in enumerate(question.messages[:-1])
        ]
        image = question.image
        values = {name: question.sampling[name] for name in (*AXES, "max_tokens") if question.sampling.get(name) is not None}
        return {
            "prompt": question.messages[-1].text,
            "history": history,
            "values": {"seed": 1, **values},
            "image": None if image is None else {"name": image.name, "source": f"chat:{conversation_id}:{number}"},
        }

    def load_image(self, owner: str, source: str) -> LoadedImage | None:
        """The image that an answer of the chat saw. Returns None when the source names no answer. Raises NotFound."""
        match = _IMAGE_SOURCE.fullmatch(source)
        if match is None:
            return None
        image = self._question(owner, match[1], int(match[2])).image
        if image is None:
            raise BadRequest("This answer of the chat has no image.")
        return load_image(self._conversations.image_bytes(image.digest), image.name, self._limits)

    def continue_in_chat(self, owner: str, run: Run, index: int, image: LoadedImage | None) -> str:
        """Stores an answer of a run as a new conversation, with its history, its prompt and its image.

        Args:
            index: of the answer, see Run.answer.
            image: the loaded image of the run.
        Returns:
            The address of the chat page that shows the conversation, with the sampling values of the answer.
        Raises:
            BadRequest: the answer has no text.
        """
        cell = run.answer(index)
        if not cell.text:
            raise BadRequest("This answer has no text, so there is nothing to go on from in the chat.")
        reference = None if image is None else self._conversations.put_image(image)
        sampling = run.requested_sampling(index)
        metadata: dict[str, Any] = {"sampling": asdict(sampling), "dropped": 0, "completion_tokens": len(cell.tokens)}
        metadata |= {"prompt_tokens": cell.prompt_tokens, "reason": cell.outcome, "error": cell.error}
        metadata |= {} if reference is None else {"image": asdict(reference)}
        if cell.timings is not None:
            speed = cell.tokens_per_second
            metadata |= {"waited_s": cell.timings.waited_s, "ttft_s": cell.timings.ttft_s, "tokens_per_second": speed}
        answer = Message("assistant", cell.text, metadata=metadata)
        conversation = conversation_of(run.grid, reference).add(answer)
        self._conversations.save(owner, replace(conversation, title=conversation.display_title))
        values = {name: f"{getattr(sampling, name):g}" for name in ("temperature", "top_p", "top_k")}
        return "./?" + urlencode({"c": conversation.id, **values, "seed": sampling.seed, "max_tokens": sampling.max_tokens})

    def _question(self, owner: str, conversation_id: str, number: int) -> _Question:
        messages = self._conversations.tree(owner, conversation_id).up_to(number).without_failures().messages
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise BadRequest("Only an answer of the chat can be explored.")
        *before, answer = messages
        sampling = answer.metadata.get("sampling") or {}
        defaults = {name: BOUNDS[name].default for name in ("temperature", "top_p", "top_k", "max_tokens")}
        return _Question(tuple(before), {**defaults, **sampling})
