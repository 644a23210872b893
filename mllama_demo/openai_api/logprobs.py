"""The log probabilities of one answer's tokens, told with the text they belong to. SessionCleanup in, the API's entries out."""

from __future__ import annotations

import codecs
from collections import deque

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.engine.base import FinishEvent, TokenEvent
from mllama_demo.openai_api.schema import TokenLogprob, TopLogprob
from mllama_demo.sampling import TokenTrace


class LogprobStream:
    """Holds a token back as long as its text is held back, so that no part of a stop string shows here either.

    A token belongs to the text from the character on that its first byte is part of.
    """

    def __init__(self, tokenizer: Tokenizer, top: int) -> None:
        """top: how many alternatives to tell with each token, 0 to RECORDED_CANDIDATES."""
        self._tokenizer = tokenizer
        self._top = top
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._read = 0  # characters that the tokens so far are
        self._told = 0  # characters of the answer that were sent
        self._held: deque[tuple[int, TokenLogprob]] = deque()

    def push(self, event: TokenEvent) -> list[TokenLogprob]:
        """The entries that became certain with this token."""
        if event.trace is not None:
            self._held.append((self._read, self._entry(event.trace)))
        self._read += len(self._decoder.decode(self._tokenizer.token_bytes(event.token_id)))
        return self._tell(event.text)

    def finish(self, event: FinishEvent) -> list[TokenLogprob]:
        """The rest: without the token that ended the turn, which is no text, and without those of a stop string."""
        if event.reason == "end_of_turn" and self._held:
            self._held.pop()
        told = self._tell(event.text)
        if event.reason != "stop_string":
            told += [entry for _, entry in self._held]
        self._held.clear()
        return told

    def _tell(self, text: str) -> list[TokenLogprob]:
        self._told += len(text)
        certain = []
        while self._held and self._held[0][0] < self._told:
            certain.append(self._held.popleft()[1])
        return certain

    def _entry(self, trace: TokenTrace) -> TokenLogprob:
        candidates = zip(trace.token_ids[: self._top], trace.logits[: self._top], strict=True)
        return TokenLogprob(
            **self._words(trace.chosen),
            logprob=trace.chosen_logit - trace.log_mass,
            top_logprobs=[TopLogprob(**self._words(id), logprob=logit - trace.log_mass) for id, logit in candidates],
        )

    def _words(self, token_id: int) -> dict:
        data = self._tokenizer.token_bytes(token_id)
        if not data:
            return {"token": self._tokenizer.token_name(token_id), "bytes": None}
        return {"token": data.decode("utf-8", errors="replace"), "bytes": list(data)}
