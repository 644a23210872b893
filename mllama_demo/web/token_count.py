"""Counts the tokens of one answer from its events, in one way for metrics, for the operator's page and for limits."""

from __future__ import annotations

from dataclasses import dataclass

from mllama_demo.engine.base import Event, FinishEvent, PrefillEvent, TokenEvent


@dataclass
class TokenCount:
    """What was counted until now.

    Attributes:
        prompt: Tokens of the prompt.
        answer: Tokens of the answer.
    """

    prompt: int = 0
    answer: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.answer

    def add(self, event: Event) -> int:
        """Returns how many tokens of the answer are known with this event.

        A server may send several tokens in one event, and tells their number at the end.
        """
        new = 0
        if isinstance(event, PrefillEvent):
            self.prompt = event.prompt_tokens
        elif isinstance(event, TokenEvent):
            new = len(event.logprobs) or 1
        elif isinstance(event, FinishEvent):
            self.prompt, new = event.prompt_tokens, max(0, event.completion_tokens - self.answer)
        self.answer += new
        return new
