"""How many tokens a conversation takes, where the tokenizer is at the other end of a connection: a cautious guess that learns.

Pure: counts bytes and is told by the server, after each answer, what it should have said.
"""

from __future__ import annotations

import threading

from mllama_demo.chat.conversation import Message

# Llama 3's vocabulary needs about 0.24 tokens for a byte of English, 0.3 for code, and up to 0.45 for other scripts.
FIRST_GUESS = 0.33
PER_TURN = 5  # header, line breaks, end of turn
PER_PROMPT = 30  # its begin and the answer's header; where there is no image some templates also put today's date
_LEAST_BYTES = 200  # in less text, what surrounds it weighs too much to learn from
_LEAST, _MOST = 0.1, 3.0
_SLOWLY = 0.2


class TokenEstimate:
    """Stands where a prompt would need a Tokenizer. Safe to use from several threads."""

    def __init__(self) -> None:
        self._tokens_per_byte = FIRST_GUESS
        self._lock = threading.Lock()

    def count(self, messages: tuple[Message, ...]) -> int:
        """About how many tokens the turns take, rather too many than too few. Images take none: they are not part of the
        context of Llama 3.2 Vision."""
        return PER_PROMPT + PER_TURN * len(messages) + round(_bytes(messages) * self._tokens_per_byte)

    def learn(self, messages: tuple[Message, ...], tokens: int) -> None:
        """Takes into account that the turns took so many tokens. Rises at once and falls slowly, as too low a guess loses an
        answer and too high a one only some history."""
        size = _bytes(messages)
        if size < _LEAST_BYTES or any(m.image is not None for m in messages):  # some servers count an image as tokens
            return
        seen = (tokens - PER_TURN * len(messages)) / size
        with self._lock:
            now = self._tokens_per_byte
            self._tokens_per_byte = min(max(seen if seen > now else now + _SLOWLY * (seen - now), _LEAST), _MOST)


def _bytes(messages: tuple[Message, ...]) -> int:
    return sum(len(m.text.encode()) for m in messages)
