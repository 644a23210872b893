"""Turns what a backend tells of the tokens of one answer into the log-probability entries of the API."""

from __future__ import annotations

import codecs
from collections import deque
from typing import Any

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.engine.base import FinishEvent, TokenEvent, TokenLogprobs
from mllama_demo.engine.token_sampler import TokenTrace
from mllama_demo.openai_api.response_schema import TokenLogprob, TopLogprob

# Capabilities of backends of which either is enough for log probabilities.
LOGPROB_CAPABILITIES = frozenset({"probabilities", "logprobs"})


class RemoteLogprobStream:
    """Passes on the log probabilities that a remote server sends with its text.

    The server may tell them before or after temperature and filters, and decides which tokens it lists.
    """

    def __init__(self, top: int) -> None:
        """top: number of alternatives for each token."""
        self._top = top

    def push(self, event: TokenEvent) -> list[TokenLogprob]:
        """The entries of this event."""
        return [self._entry(token) for token in event.logprobs]

    def finish(self, event: FinishEvent) -> list[TokenLogprob]:
        """No entries: those of the last tokens came with their text."""
        return []

    def _entry(self, token: TokenLogprobs) -> TokenLogprob:
        likeliest = [TopLogprob(**_text(text), logprob=logprob) for text, logprob in token.likeliest[: self._top]]
        return TokenLogprob(**_text(token.text), logprob=token.logprob, top_logprobs=likeliest)


def _text(text: str) -> dict[str, Any]:
    """A server sends the text of a token. Of a part of a character it sends U+FFFD, so that its bytes are not known."""
    return {"token": text, "bytes": None if "\ufffd" in text else list(text.encode())}


class LogprobStream:
    """Holds back a token as long as its text is held back, so that no token of a stop string is sent.

    A token belongs to the character that its first byte is part of.
    """

    def __init__(self, tokenizer: Tokenizer, top: int) -> None:
        """top: number of alternatives for each token, 0 to RECORDED_CANDIDATES."""
        self._tokenizer = tokenizer
        self._top = top
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoded = 0  # number of characters of the tokens so far
        self._sent = 0  # number of characters of the answer that were sent
        self._held: deque[tuple[int, TokenLogprob]] = deque()  # with the first character of each token

    def push(self, event: TokenEvent) -> list[TokenLogprob]:
        """The entries whose text is sent with this event."""
        if event.trace is not None:
            self._held.append((self._decoded, self._entry(event.trace)))
        self._decoded += len(self._decoder.decode(self._tokenizer.token_bytes(event.token_id)))
        return self._release(event.text)

    def finish(self, event: FinishEvent) -> list[TokenLogprob]:
        """The remaining entries, without the token that ended the turn and without the tokens of a stop string."""
        if event.reason == "end_of_turn" and self._held:
            self._held.pop()
        entries = self._release(event.text)
        if event.reason != "stop_string":
            entries += [entry for _, entry in self._held]
        self._held.clear()
        return entries

    def _release(self, text: str) -> list[TokenLogprob]:
        self._sent += len(text)
        entries = []
        while self._held and self._held[0][0] < self._sent:
            entries.append(self._held.popleft()[1])
        return entries

    def _entry(self, trace: TokenTrace) -> TokenLogprob:
        candidates = zip(trace.token_ids[: self._top], trace.logits[: self._top], strict=True)
        return TokenLogprob(
            **self._token(trace.chosen),
            logprob=trace.chosen_logit - trace.log_mass,
            top_logprobs=[TopLogprob(**self._token(id), logprob=logit - trace.log_mass) for id, logit in candidates],
        )

    def _token(self, token_id: int) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token_id)
        if not data:
            return {"token": self._tokenizer.token_name(token_id), "bytes": None}
        return {"token": data.decode("utf-8", errors="replace"), "bytes": list(data)}
