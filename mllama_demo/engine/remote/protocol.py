"""A request as JSON of the OpenAI chat-completions protocol, and what comes back as text, figures and reasons.

Pure: no connection, no client. The client's objects are read with care, since it checks nothing of what a server sends.
"""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import dataclass
from typing import Any

from mllama_demo.chat.conversation import Message
from mllama_demo.engine.base import FinishReason, GenerationRequest, TokenLogprobs
from mllama_demo.engine.remote.providers import Provider
from mllama_demo.images.loading import LoadedImage

TOP_LOGPROBS = 20  # the most that vLLM and OpenAI give
_LARGEST_PNG = 8 * 2**20  # bytes; beyond it a JPEG of nearly no loss is sent
_LOSSY = ("JPEG", "WEBP")
_MARKUP = re.compile(r"<\|(?=\w+\|>)")
_WORD_JOINER = "\u2060"
# Rounding may lift a logprob a little above 0; a token id in its place is a whole number.
_LARGEST_LOGPROB = 1e-3


def body(request: GenerationRequest, kind: Provider, model: str, image_url: str | None, max_tokens: int) -> dict[str, Any]:
    """The keyword arguments of client.chat.completions.create. image_url: of request.image."""
    sampling = request.sampling
    values: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    top_k = sampling.top_k_within(kind.max_top_k)
    if sampling.greedy and kind.takes_top_k and kind.greedy_as_top_k:
        values, top_k = {"temperature": 1.0, "top_p": 1.0}, 1
    elif sampling.greedy:
        values, top_k = {"temperature": 0.0, "top_p": 1.0}, 0
    if sampling.seed is not None and "seed" not in kind.ignored:
        values["seed"] = sampling.seed
    if sampling.stop:
        values["stop"] = list(sampling.stop)
    if request.trace and "logprobs" in kind.capabilities:
        values |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    more: dict[str, Any] = {}
    if kind.takes_top_k and top_k > 0:  # older vLLM refuses the 0 that means all
        more["top_k"] = top_k
    if sampling.ignore_eos and "ignore_eos" not in kind.ignored:
        more["ignore_eos"] = True
    if more:
        values["extra_body"] = more
    return {
        "model": model,
        "messages": [_message(turn, image_url, kind.reads_markup) for turn in request.messages],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **values,
    }


def _message(turn: Message, image_url: str | None, defuse: bool) -> dict[str, Any]:
    text = turn.text.strip()
    if defuse:
        text = _MARKUP.sub(f"<{_WORD_JOINER}|", text)
    if turn.image is None:
        return {"role": turn.role, "content": text}
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image_url}}]
    return {"role": turn.role, "content": [*parts, {"type": "text", "text": text}] if text else parts}


def data_url(image: LoadedImage) -> str:
    """The checked pixels, never the file that somebody sent: exactly as PNG, or nearly as JPEG where they were lossy before
    or are many."""
    out = io.BytesIO()
    kind = "jpeg" if image.format in _LOSSY else "png"
    if kind == "png":
        image.pixels.save(out, "PNG", compress_level=3)
    if kind == "jpeg" or out.tell() > _LARGEST_PNG:
        kind, out = "jpeg", io.BytesIO()
        image.pixels.save(out, "JPEG", quality=95, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


@dataclass(frozen=True)
class Piece:
    """One chunk of a stream. usage: (prompt, completion) tokens. finish, stop_reason: once, at the end. error: the server's
    words, when it failed in the middle."""

    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()
    usage: tuple[int, int] | None = None
    finish: str | None = None
    stop_reason: Any = None
    error: str | None = None


def piece(chunk: Any) -> Piece:
    """A chunk as the client made it, with anything missing or null."""
    if getattr(chunk, "object", None) == "error":  # vLLM's older, flat form, which the client takes for a chunk
        return Piece(error=str(getattr(chunk, "message", None) or "no reason given"))
    told = getattr(chunk, "usage", None)
    read, wrote = getattr(told, "prompt_tokens", None), getattr(told, "completion_tokens", None)
    usage = (read, wrote) if isinstance(read, int) and isinstance(wrote, int) else None
    choice = next(iter(getattr(chunk, "choices", None) or ()), None)
    if choice is None:
        return Piece(usage=usage)
    content = getattr(getattr(choice, "delta", None), "content", None)
    return Piece(
        text=content if isinstance(content, str) else "",
        logprobs=_logprobs(getattr(getattr(choice, "logprobs", None), "content", None)),
        usage=usage,
        finish=getattr(choice, "finish_reason", None),
        stop_reason=getattr(choice, "stop_reason", None),
    )


def _logprobs(entries: Any) -> tuple[TokenLogprobs, ...]:
    def pair(entry: Any) -> tuple[str, float]:
        value = getattr(entry, "logprob", None)
        return str(getattr(entry, "token", "")), float(value) if isinstance(value, (int, float)) else math.nan

    return tuple(
        TokenLogprobs(*pair(entry), tuple(sorted(map(pair, getattr(entry, "top_logprobs", None) or ()), key=lambda p: -p[1])))
        for entry in entries or ()
    )


def credible(logprobs: tuple[TokenLogprobs, ...]) -> bool:
    """Whether they can be logarithms of probabilities at all. The Neuron fork of vLLM sends token ids in their place."""
    values = [value for step in logprobs for value in (step.logprob, *(rival for _, rival in step.likeliest))]
    return all(value <= _LARGEST_LOGPROB for value in values)


def reason(finish: str, stop_reason: Any, asked_for: int, wanted: int) -> FinishReason | None:
    """Why an answer ended. asked_for: max_tokens as sent, less than wanted where the context has no room for more. None: it
    did not end well."""
    if finish == "length" and stop_reason in ("context_full", "time_limit"):  # another copy of this demo says so
        return stop_reason
    if finish == "length":
        return "max_tokens" if asked_for >= wanted else "context_full"
    if finish in ("stop", "tool_calls", "function_call"):
        return "stop_string" if isinstance(stop_reason, str) else "end_of_turn"
    return None
