"""How a token ends an answer, for every backend that decides it here: the scheduler, and backend vllm."""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol

from mllama_demo.engine.base import FinishReason
from mllama_demo.sampling import SamplingParams


class TextStream(Protocol):
    """Turns the token ids of one request into text that is final: whole characters, and no part of a stop string.

    Attributes:
        stopped: The stop string that ended the text, or None.
    """

    stopped: str | None

    def push(self, token_id: int) -> str:
        """Adds a token. Returns the text that is final with this token."""
        ...

    def finish(self) -> str:
        """Returns the text that was withheld until now, when no token follows."""
        ...


def ends_turn(token_id: int, sampling: SamplingParams, end_of_turn_ids: Container[int]) -> bool:
    """Whether the token is the model's own end of its answer. With ignore_eos, such a token is one like any other."""
    return token_id in end_of_turn_ids and not sampling.ignore_eos


def push_token(
    text: TextStream, token_id: int, number: int, sampling: SamplingParams, end_of_turn_ids: Container[int]
) -> tuple[str, FinishReason | None]:
    """Adds a token to the text of its answer.

    Args:
        number: of the token in its answer, from 1.

    Returns:
        The text that is final with this token, and the reason if the answer ends with it.
    """
    if ends_turn(token_id, sampling, end_of_turn_ids):
        return "", "end_of_turn"
    new = text.push(token_id)
    if text.stopped is not None:
        return new, "stop_string"
    return new, "max_tokens" if number >= sampling.max_tokens else None
