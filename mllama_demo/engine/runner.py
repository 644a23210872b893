"""What the scheduler needs from a model: slots that are prefilled one at a time and decoded all together.

A Neuron-compiled model has a fixed batch of slots with a contiguous cache; the transformers runner is shaped the same way.
Parking, padding and buckets are the runner's own business.
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
    """The token chosen for one slot at one step."""

    token_id: int
    trace: TokenTrace | None = None


class RunnerDown(Exception):
    """Raised by a runner that cannot go on: the backend goes down instead of trying the next request."""


class ModelRunner(Protocol):
    """A model with `slots` independent sequences of up to `max_seq_len` tokens each. Called from one thread only."""

    slots: int
    max_seq_len: int

    def prefill(self, slot: int, request: GenerationRequest) -> Sampled:
        """Reads the whole prompt into a free slot and samples the first token. May raise; the slot is then released."""
        ...

    def decode(self, slots: Sequence[int]) -> list[Sampled]:
        """One step: feeds each named slot the token it sampled last and samples the next, in the order of `slots`.

        Slots not named keep their state. A slot is never decoded past max_seq_len tokens.
        """
        ...

    def release(self, slot: int) -> None:
        """Ends the slot's sequence. Safe on a free slot."""
        ...


def image_position(request: GenerationRequest, image_token_id: int) -> int:
    """Where the prompt's image token is, 0 without an image. Raises BadRequest unless there is one of each, or neither."""
    count = request.prompt_ids.count(image_token_id)
    if request.image is None:
        if count:
            raise BadRequest("The prompt has an image token but no image came with it.")
        return 0
    if count != 1:
        raise BadRequest(f"A prompt with an image needs exactly one image token, this one has {count}.")
    return request.prompt_ids.index(image_token_id)
