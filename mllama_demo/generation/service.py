"""Answers a conversation: sends it to the backend and reports the progress of the answer. Used by the chat and by present mode.

Knows no Gradio, no HTTP and no torch.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from cachetools import LRUCache

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import (
    Backend,
    Client,
    Event,
    FinishEvent,
    PrefillEvent,
    QueueEvent,
    TokenEvent,
)
from mllama_demo.errors import BadRequest
from mllama_demo.generation.request import RequestBuilder, top_k_limit
from mllama_demo.images.loading import IMAGE_MEMORY, LoadedImage, load_image
from mllama_demo.sampling import BOUNDS, SamplingParams

DECODED_BYTES = 256 * 2**20
Phase = Literal["waiting", "reading", "writing", "done"]


class ImageSource(Protocol):
    """Holds the files of images, such as the store or a scenario."""

    def image_bytes(self, digest: str) -> bytes:
        """The file with this sha-256 digest (hex). Raises NotFound."""
        ...


@dataclass(frozen=True)
class Answer:
    """An answer at one moment of its generation.

    Attributes:
        image: the image that the model sees.
        dropped: how many of the oldest messages do not fit the prompt.
        text: the answer so far.
        answered: how many tokens of the prompt are the beginning of the answer.
        position, estimated_wait_s: the place in the queue, only in the phase "waiting".
        finish: the backend's last event, only in the phase "done".
        prompt_tokens: known from the phase "reading" on.
        read_s: seconds from the start of prefill to the first token; known from the phase "writing" on.
        tokens: number of tokens so far; estimated is True where a server sends only text.
        wrote_s: seconds from the first token to the latest one.
        phase_began: time.monotonic() of the latest change: of the place in the queue while waiting, else of the phase.
    """

    request_id: str
    sampling: SamplingParams
    image: ImageRef | None
    dropped: int
    phase: Phase = "waiting"
    text: str = ""
    answered: int = 0
    position: int | None = None
    estimated_wait_s: float | None = None
    finish: FinishEvent | None = None
    prompt_tokens: int | None = None
    read_s: float | None = None
    tokens: int = 0
    estimated: bool = False
    wrote_s: float = 0.0
    phase_began: float = 0.0

    def after(self, event: Event, now: float | None = None) -> Answer:
        """The answer after `event`, which happens at `now` (time.monotonic())."""
        now = time.monotonic() if now is None else now
        if isinstance(event, QueueEvent):
            return replace(
                self, phase="waiting", position=event.position, estimated_wait_s=event.estimated_wait_s, phase_began=now
            )
        if isinstance(event, PrefillEvent):
            prompt_tokens = event.prompt_tokens
            return replace(
                self, phase="reading", position=None, estimated_wait_s=None, prompt_tokens=prompt_tokens, phase_began=now
            )
        if isinstance(event, TokenEvent):
            text, tokens = self.text + event.text, self.tokens + (len(event.logprobs) or 1)
            estimated = self.estimated or event.token_id < 0
            if not self.tokens:
                read_s = now - self.phase_began
                return replace(
                    self, phase="writing", text=text, tokens=tokens, estimated=estimated, read_s=read_s, phase_began=now
                )
            return replace(self, text=text, tokens=tokens, estimated=estimated, wrote_s=now - self.phase_began)
        return replace(self, phase="done", text=self.text + event.text, finish=event)


class GenerationService:
    """Answers conversations with one backend. The images of the conversations come from one store."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer | TokenEstimate, store: ImageSource, settings: Settings) -> None:
        self.backend = backend
        self._requests = RequestBuilder(backend, tokenizer, settings)
        self._store = store
        self.limits = settings.image_limits
        self._decoded: LRUCache[str, LoadedImage] = LRUCache(
            min(DECODED_BYTES, self.limits.max_memory // 4), getsizeof=lambda image: image.memory
        )
        self._decoded_lock = threading.Lock()
        IMAGE_MEMORY.add_cache(self.discard_all)

    @property
    def can_continue(self) -> bool:
        """Whether an answer can go on after a given beginning."""
        return "continue" in self.backend.info.capabilities

    async def answer(
        self,
        conversation: Conversation,
        sampling: SamplingParams,
        request_id: str,
        time_limit_s: float = math.inf,
        client: Client | None = None,
        beginning: str = "",
    ) -> AsyncGenerator[Answer, None]:
        """Streams the states of the next assistant turn; the last one has `finish`. Closing the stream cancels the request.

        Args:
            time_limit_s: applies where it is less than the deployment's request_time_limit_s.
            client: who asks; None for the program itself.
            beginning: the text of an earlier answer to the last turn, which this one goes on with; see `can_continue`.

        Raises:
            DemoError: before the first Answer, see RequestBuilder.build and Backend.generate.
        """
        if beginning and not self.can_continue:
            raise BadRequest(f"The backend {self.backend.info.name} cannot go on with an answer.")
        built = await self._requests.build(
            conversation,
            sampling,
            self.load,
            time_limit_s=time_limit_s,
            beginning=beginning,
            id=request_id,
            client=client or Client(),
        )
        prompt = built.prompt
        answer = Answer(
            request_id, built.request.sampling, prompt.image, prompt.dropped, text=beginning, answered=prompt.answered
        )
        async with aclosing(self.backend.generate(built.request)) as events:
            async for event in events:
                answer = answer.after(event)
                yield answer

    def load(self, image: ImageRef) -> LoadedImage:
        """The decoded image. The images used last stay in memory."""
        with self._decoded_lock:
            loaded = self._decoded.get(image.digest)
        if loaded is None:
            loaded = load_image(self._store.image_bytes(image.digest), image.name, self.limits)
            with self._decoded_lock, contextlib.suppress(ValueError):  # larger than the whole cache
                self._decoded[image.digest] = loaded
        return loaded

    def discard(self, digest: str) -> None:
        """Removes a deleted image from memory."""
        with self._decoded_lock:
            self._decoded.pop(digest, None)

    def discard_all(self) -> None:
        """Removes all images from memory. They are decoded again when they are asked for."""
        with self._decoded_lock:
            self._decoded.clear()

    def message(self, answer: Answer) -> Message:
        """The assistant's turn as it is stored, with the figures that are shown under it as metadata."""
        # Of an answer that went on, the values with which one answer would have as many tokens.
        longest = min(answer.answered + answer.sampling.max_tokens, int(BOUNDS["max_tokens"].maximum))
        sampling = replace(answer.sampling, max_tokens=longest) if answer.answered else answer.sampling
        metadata: dict[str, Any] = {"sampling": asdict(sampling), "dropped": answer.dropped}
        info = self.backend.info
        if (top_k := top_k_limit(answer.sampling, info)) is not None:
            metadata["top_k_limit"] = top_k
        if answer.image is not None:
            metadata["image"] = asdict(answer.image)
            if tiles := info.tile_layout(answer.image.width, answer.image.height):
                metadata["image"] |= {"rows": tiles.rows, "columns": tiles.columns}
        if answer.finish is not None:
            finish = answer.finish
            metadata |= {
                "reason": finish.reason,
                "context_length": info.told_context,
                "error": finish.error,
                "prompt_tokens": finish.prompt_tokens - answer.answered,
                "completion_tokens": finish.completion_tokens + answer.answered,
                "waited_s": finish.timings.waited_s,
                "ttft_s": finish.timings.ttft_s,
                "tokens_per_second": finish.timings.tokens_per_second(finish.completion_tokens),
            }
            if finish.estimated:
                metadata["estimated"] = True
        return Message("assistant", answer.text, metadata=metadata)
