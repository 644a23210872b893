"""The interface between the scheduler and a model: prompts are read one at a time, in pieces, and slots are decoded together.

A Neuron-compiled model has a fixed batch of slots with a contiguous cache; the PyTorch runner has the same shape. Each runner
decides about padding, buckets, the size of a piece and the inputs of idle slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.token_sampler import NO_TOKEN, NOT_FINITE, TokenTrace
from mllama_demo.errors import BadRequest


@dataclass(frozen=True)
class Sampled:
    """The token that was sampled for one slot in one step.

    Attributes:
        token_id: NO_TOKEN if the model computed nothing that a token could be sampled from.
    """

    token_id: int
    trace: TokenTrace | None = None

    @property
    def error(self) -> str | None:
        """Why there is no token."""
        return NOT_FINITE if self.token_id == NO_TOKEN else None


class RunnerDown(Exception):
    """Raised by a runner that can serve no further request. The backend is down from then on."""


class ModelRunner(Protocol):
    """A model with `slots` independent sequences of at most `max_seq_len` tokens each. Called from one thread only."""

    slots: int
    max_seq_len: int

    def choose_slot(self, free: Sequence[int], request: GenerationRequest) -> int:
        """Returns the one of the free slots that suits the request best. Computes nothing, because the caller holds a lock."""
        ...

    def begin(self, slot: int, request: GenerationRequest) -> int:
        """Takes a free slot for the request. If it raises, the caller releases the slot.

        Returns:
            How many tokens of the prompt need not be read, because an earlier request had them.

        Raises:
            BadRequest, PromptTooLong: The request can never run.
        """
        ...

    def read_piece(self, slot: int) -> Sampled | None:
        """Reads the next piece of the slot's prompt: None, or the first token of the answer after the last piece.

        Decode steps of other slots may come between two pieces. A runner that cannot divide a prompt reads all of it. The caller
        may release the slot between two pieces, and releases it if this raises.
        """
        ...

    def decode(self, slots: Sequence[int]) -> list[Sampled]:
        """Feeds the last sampled token of each slot in `slots` and samples the next token. Returns them in the order of `slots`.

        Other slots keep their state, also one whose prompt is half read. The caller never decodes a slot past max_seq_len tokens.
        If only some of `slots` fail, their Sampled have an error, and the caller releases them. If all fail, this raises.
        """
        ...

    def release(self, slot: int) -> None:
        """Ends the sequence in the slot. Does nothing to a free slot."""
        ...


def prefill(runner: ModelRunner, slot: int, request: GenerationRequest) -> Sampled:
    """Reads the whole prompt of the request into a free slot. Returns the first token of the answer."""
    runner.begin(slot, request)
    while (sampled := runner.read_piece(slot)) is None:
        pass
    return sampled


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
