"""The one builder of GenerationRequests, and the one loop that sends a request again while the queue is full.

Knows the chat format, the deployment's settings and what a backend can do. Knows no feature that asks.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from mllama_demo.chat.conversation import Conversation, ImageRef
from mllama_demo.chat.prompt import Prompt, build_prompt
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Backend, BackendInfo, Event, GenerationRequest
from mllama_demo.errors import BackendBusy
from mllama_demo.images.loading import LoadedImage
from mllama_demo.images.threads import in_image_thread
from mllama_demo.sampling import SamplingParams

BUSY_RETRY_S = 0.5


@dataclass(frozen=True)
class BuiltRequest:
    """A request that is ready to be sent, and the prompt that it was made of."""

    request: GenerationRequest
    prompt: Prompt


@dataclass(frozen=True)
class RequestBuilder:
    """Builds requests for one backend with the deployment's settings.

    Attributes:
        tokenizer: the model's own, or an estimate where the tokenizer is at the other end of a connection.
    """

    backend: Backend
    tokenizer: Tokenizer | TokenEstimate
    settings: Settings

    def with_seed(self, sampling: SamplingParams) -> SamplingParams:
        """Draws a missing seed, so that every answer can be repeated. Removes the seed where it has no effect."""
        if "seed" not in self.backend.info.capabilities:
            return replace(sampling, seed=None)
        return sampling if sampling.seed is not None else replace(sampling, seed=secrets.randbelow(2**32))

    async def build(
        self,
        conversation: Conversation,
        sampling: SamplingParams,
        load_image: Callable[[ImageRef], LoadedImage | None],
        *,
        conversation_id: str = "",
        time_limit_s: float = math.inf,
        may_drop: bool = True,
        beginning: str = "",
        **fields: Any,
    ) -> BuiltRequest:
        """Builds the request for the conversation's next answer. The work is done in threads, because it may take a while.

        Args:
            load_image: returns the image that the prompt refers to; called at most once, and not for a prompt without image.
            conversation_id: whose turn in the queue the request shares; empty for the conversation's own.
            time_limit_s: applies where it is less than the deployment's request_time_limit_s.
            may_drop: whether the oldest messages may be left out of a prompt that is too long.
            beginning: the text with which the answer begins already, see build_prompt.
            fields: further fields of GenerationRequest, such as `trace`.

        Raises:
            PromptTooLong: the conversation does not fit the context.
            DemoError: whatever load_image raises.
        """
        info, sampling = self.backend.info, self.with_seed(sampling)
        prompt = await asyncio.to_thread(
            build_prompt,
            conversation.without_failures(),
            self.tokenizer,
            context_length=info.context_length,
            max_tokens=sampling.max_tokens,
            system_prompt=self.settings.system_prompt,
            max_prompt=info.max_prompt,
            may_drop=may_drop,
            beginning=beginning,
        )
        image = None if prompt.image is None else await in_image_thread(load_image, prompt.image)
        request = GenerationRequest(
            prompt.token_ids,
            sampling,
            image=image,
            conversation_id=conversation_id or conversation.id,
            time_limit_s=min(time_limit_s, self.settings.request_time_limit_s),
            messages=prompt.messages,
            answered=prompt.answered,
            **fields,
        )
        return BuiltRequest(request, prompt)


def renewed(request: GenerationRequest, **changes: Any) -> GenerationRequest:
    """The same request under a new id, with some fields changed."""
    return replace(request, id=GenerationRequest(()).id, **changes)


def top_k_limit(sampling: SamplingParams, info: BackendInfo) -> int | None:
    """The top_k that the backend uses in place of the one asked for; None where it uses that one."""
    top_k = sampling.top_k_within(info.max_top_k)
    return None if sampling.greedy or top_k == sampling.top_k else top_k


async def generate_when_free(
    backend: Backend, request: GenerationRequest, on_busy: Callable[[], None] = lambda: None
) -> AsyncGenerator[Event, None]:
    """Streams backend.generate(request), and sends the request again as long as the queue is full.

    on_busy: called each time that the backend refuses the request.
    """
    while True:
        try:
            async with aclosing(backend.generate(request)) as events:
                async for event in events:
                    yield event
            return
        except BackendBusy:
            on_busy()
        await asyncio.sleep(BUSY_RETRY_S)
