"""Estimates the tokens of a conversation when only a remote server has the tokenizer.

Counts bytes, and learns the tokens per byte from the server's own counts. Pure.
"""

from __future__ import annotations

import threading

from mllama_demo.chat.conversation import Message

# Tokens per byte. Llama 3's vocabulary needs about 0.24 for English, 0.3 for code, and up to 0.45 for other scripts.
FIRST_GUESS = 0.33
PER_TURN = 5  # header, line breaks, end of turn
PER_PROMPT = 30  # the beginning and the answer's header; without an image, some templates also add today's date
_MIN_BYTES = 200  # the overhead of shorter texts distorts their tokens per byte
_MIN_RATE, _MAX_RATE = 0.1, 3.0
_DECREASE = 0.2  # how much of a decrease is adopted at once


class TokenEstimate:
    """Takes the place of a Tokenizer in build_prompt. Safe to use from several threads."""

    def __init__(self) -> None:
        self._tokens_per_byte = FIRST_GUESS
        self._lock = threading.Lock()

    def count(self, messages: tuple[Message, ...]) -> int:
        """The estimated tokens of the turns, rather too many than too few.

        Images count 0, because Llama 3.2 Vision reads them by cross-attention and not in the context.
        """
        return PER_PROMPT + PER_TURN * len(messages) + round(_bytes(messages) * self._tokens_per_byte)

    def learn(self, messages: tuple[Message, ...], tokens: int) -> None:
        """Adapts the estimate to the server's count of tokens for the turns.

        An increase is adopted at once, a decrease slowly: too low an estimate loses an answer, too high a one only drops old
        messages.
        """
        size = _bytes(messages)
        if size < _MIN_BYTES or any(m.image is not None for m in messages):  # some servers count an image as tokens
            return
        rate = (tokens - PER_TURN * len(messages)) / size
        with self._lock:
            old = self._tokens_per_byte
            self._tokens_per_byte = min(max(rate if rate > old else old + _DECREASE * (rate - old), _MIN_RATE), _MAX_RATE)


def _bytes(messages: tuple[Message, ...]) -> int:
    return sum(len(m.text.encode()) for m in messages)
