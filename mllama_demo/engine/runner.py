"""The interface between the scheduler and a model: slots are prefilled one at a time and decoded together.

A Neuron-compiled model has a fixed batch of slots with a contiguous cache; the PyTorch runner has the same shape. Each runner
decides about padding, buckets and the inputs of idle slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.token_sampler import TokenTrace
from mllama_demo.errors import BadRequest


@dataclass(frozen=True)
class Sampled:
    """The token that was sampled for one slot in one step."""

    token_id: int
    trace: TokenTrace | None = None


class RunnerDown(Exception):
    """Raised by a runner that can serve no further request. The backend is down from then on."""


class ModelRunner(Protocol):
    """A model with `slots` independent sequences of at most `max_seq_len` tokens each. Called from one thread only."""

    slots: int
    max_seq_len: int

    def prefill(self, slot: int, request: GenerationRequest) -> Sampled:
        """Prefills a free slot with the whole prompt and samples the first token. If it raises, the caller releases the slot."""
        ...

    def decode(self, slots: Sequence[int]) -> list[Sampled]:
        """Feeds the last sampled token of each slot in `slots` and samples the next token. Returns them in the order of `slots`.

        Other slots keep their state. The caller never decodes a slot past max_seq_len tokens.
        """
        ...

    def release(self, slot: int) -> None:
        """Ends the sequence in the slot. Does nothing to a free slot."""
        ...


def image_position(request: GenerationRequest, image_token_id: int) -> int:
    """Returns the index of the image token in the prompt; 0 without an image.

    Raises:
        BadRequest: The prompt of a request with an image has not exactly one image token, or a request without an image has one.
    """
    count = request.prompt_ids.count(image_token_id)
    if request.image is None:
        if count:
            raise BadRequest("The prompt has an image token but no image came with it.")
        return 0
    if count != 1:
        raise BadRequest(f"A prompt with an image needs exactly one image token, this one has {count}.")
    return request.prompt_ids.index(image_token_id)
