"""Tokens of a remote server, which sends text and log probabilities instead of token ids.

A token's id is made of its text, so that the same text has the same id in every answer of a run.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from mllama_demo.engine.base import TokenEvent, TokenLogprobs
from mllama_demo.engine.token_sampler import RECORDED_CANDIDATES, TokenTrace, filter_logits
from mllama_demo.explore.results import Token
from mllama_demo.sampling import SamplingParams


def tokens_of(event: TokenEvent, sampling: SamplingParams) -> list[Token]:
    """The tokens of an event: one, or as many as the server sent log probabilities for.

    Args:
        sampling: what the server was asked to sample with.
    """
    if not event.logprobs and not event.text and event.token_id < 0:  # a part of the thinking, which the answer does not have
        return []
    if not event.logprobs:
        return [Token(id=event.token_id, text=event.text, trace=event.trace)]
    texts = [step.text for step in event.logprobs]
    if "".join(texts) != event.text:  # a character of several tokens, or a text that the server changed
        texts = [event.text, *[""] * (len(texts) - 1)]
    return [_token(step, text, sampling) for step, text in zip(event.logprobs, texts, strict=True)]


def text_id(text: str) -> int:
    """The id of a token with this text."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF


def _token(step: TokenLogprobs, text: str, sampling: SamplingParams) -> Token:
    """The token with its alternatives; without them where the server sent no number for the token itself."""
    chosen = text_id(step.text)
    if not math.isfinite(step.logprob):
        return Token(id=chosen, text=text)
    found = {chosen: (step.text, step.logprob)}
    for other, logprob in step.likeliest:
        if math.isfinite(logprob) and len(found) < RECORDED_CANDIDATES:
            found.setdefault(text_id(other), (other, logprob))
    ranked = sorted(found.items(), key=lambda item: -item[1][1])
    logits = tuple(min(0.0, logprob) for _, (_, logprob) in ranked)
    rank = [token_id for token_id, _ in ranked].index(chosen)
    # How many of the sent candidates the filters leave. The token itself was left, whatever the rest of the vocabulary weighs.
    filtered = filter_logits(np.asarray(logits), sampling)
    after_top_k = max(filtered.after_top_k, rank + 1)
    trace = TokenTrace(
        token_ids=tuple(token_id for token_id, _ in ranked),
        logits=logits,
        log_mass=0.0,
        chosen=chosen,
        chosen_logit=logits[rank],
        draw=None,
        after_top_k=after_top_k,
        after_top_p=min(after_top_k, max(filtered.kept, rank + 1)),
        reported=True,
    )
    return Token(id=chosen, text=text, trace=trace, candidates=tuple(name for _, (name, _) in ranked))
