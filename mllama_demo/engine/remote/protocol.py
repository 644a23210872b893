"""Converts a request to the OpenAI chat-completions protocol, and the chunks of a streamed answer back.

Pure functions: the module knows no connection and no client. The openai client (3.57) does not check what a server sends, so any
field of a chunk may be missing, null or of another type.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mllama_demo.chat.conversation import Message
from mllama_demo.engine.base import FinishReason, GenerationRequest, TokenLogprobs
from mllama_demo.engine.remote.providers import Provider
from mllama_demo.images.loading import LoadedImage

TOP_LOGPROBS = 20  # the maximum of vLLM and OpenAI
_MAX_PNG_BYTES = 8 * 2**20  # a larger image is sent as JPEG
_LOSSY = ("JPEG", "WEBP")
_SPECIAL_TOKEN = re.compile(r"<\|(?=\w+\|>)")
_WORD_JOINER = "\u2060"
# Rounding may lift a logprob a little above 0. A token id sent in its place is a whole number.
_MAX_LOGPROB = 1e-3
# Reasons of an end, in small letters. "length" and "content_filter" are OpenAI's, the others are those of servers.
_LENGTH_REASONS = ("length", "max_tokens", "max_length", "model_length")
_STOP_STRING_REASONS = ("stop_sequence", "stop_string")
_CUT_OFF = ("content_filter", "safety", "error", "abort", "aborted", "cancelled", "canceled", "timeout")


def completion_arguments(
    request: GenerationRequest,
    provider: Provider,
    model: str,
    image_url: str | None,
    max_tokens: int,
    top_logprobs: int = TOP_LOGPROBS,
    refused: Collection[str] = (),
) -> dict[str, Any]:
    """Returns the keyword arguments of client.chat.completions.create.

    Args:
        max_tokens: replaces that of the request.
        top_logprobs: how many alternatives of each token are requested where the request has `trace`; 0 for no log probabilities.
        refused: parameters that the server refused, see errors.refused_parameters. They are left out; max_tokens gets its newer
            name.
    """
    sampling = request.sampling
    values: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    top_k = sampling.top_k_within(provider.max_top_k)
    if sampling.greedy and provider.takes_top_k and provider.greedy_as_top_k:
        values, top_k = {"temperature": 1.0, "top_p": 1.0}, 1
    elif sampling.greedy:
        values, top_k = {"temperature": 0.0, "top_p": 1.0}, 0
    if sampling.seed is not None and "seed" not in provider.ignored:
        values["seed"] = sampling.seed
    if sampling.stop:
        values["stop"] = list(sampling.stop)
    if request.trace and "logprobs" in provider.capabilities and top_logprobs:
        values |= {"logprobs": True, "top_logprobs": top_logprobs}
    extra: dict[str, Any] = dict(provider.extra)  # parameters that the OpenAI protocol does not have
    # vLLM up to 0.8 refuses a top_k of 0; without top_k it samples from all tokens.
    if provider.takes_top_k and (top_k > 0 or provider.sends_top_k_of_zero):
        extra["top_k"] = top_k
    if sampling.ignore_eos and "ignore_eos" not in provider.ignored:
        extra["ignore_eos"] = True
    extra = {name: value for name, value in extra.items() if name not in refused}
    if extra:
        values["extra_body"] = extra
    arguments = {
        "model": model,
        "messages": [_message(turn, image_url, provider.parses_special_tokens) for turn in request.messages],
        "max_completion_tokens" if "max_tokens" in refused else "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **values,
    }
    return {name: value for name, value in arguments.items() if name not in refused}


def _message(turn: Message, image_url: str | None, break_special_tokens: bool) -> dict[str, Any]:
    text = turn.text.strip()
    if break_special_tokens:
        text = _SPECIAL_TOKEN.sub(f"<{_WORD_JOINER}|", text)
    if turn.image is None:
        return {"role": turn.role, "content": text}
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image_url}}]
    return {"role": turn.role, "content": [*parts, {"type": "text", "text": text}] if text else parts}


def data_url(image: LoadedImage) -> str:
    """Encodes the checked pixels, never the user's file. PNG keeps the pixels exactly.

    An image that came as JPEG or WebP, or that is larger than _MAX_PNG_BYTES as PNG, becomes a JPEG of high quality.
    """
    out = io.BytesIO()
    kind = "jpeg" if image.format in _LOSSY else "png"
    if kind == "png":
        image.pixels.save(out, "PNG", compress_level=3)
    if kind == "jpeg" or out.tell() > _MAX_PNG_BYTES:
        kind, out = "jpeg", io.BytesIO()
        image.pixels.save(out, "JPEG", quality=95, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


@dataclass(frozen=True)
class ParsedChunk:
    """One chunk of a streamed answer.

    Attributes:
        thinks: The chunk belongs to the thinking part, which Ollama, LM Studio, llama-server and vLLM send apart from the answer.
        usage: Prompt tokens and completion tokens of the whole answer, usually in the last chunk.
        finish: finish_reason, in the chunk that ends the answer.
        stop_reason: The stop string in that chunk when one ended the answer; vLLM's extension of the protocol.
        error: The server's message when it failed during the answer.
    """

    text: str = ""
    thinks: bool = False
    logprobs: tuple[TokenLogprobs, ...] = ()
    usage: tuple[int, int] | None = None
    finish: str | None = None
    stop_reason: Any = None
    error: str | None = None


def parse_chunk(chunk: Any) -> ParsedChunk:
    """Reads a chunk object of the openai client."""
    if getattr(chunk, "object", None) == "error":  # the flat form of vLLM before 0.10.1, which openai takes for a chunk
        return ParsedChunk(error=str(getattr(chunk, "message", None) or "no reason given"))
    counts = getattr(chunk, "usage", None)
    prompt, completion = getattr(counts, "prompt_tokens", None), getattr(counts, "completion_tokens", None)
    usage = (prompt, completion) if isinstance(prompt, int) and isinstance(completion, int) else None
    choice = next(iter(getattr(chunk, "choices", None) or ()), None)
    if choice is None:
        return ParsedChunk(usage=usage)
    delta = getattr(choice, "delta", None)
    content = getattr(delta, "content", None)
    return ParsedChunk(
        text=content if isinstance(content, str) else "",
        thinks=bool(getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)),
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


def are_log_probabilities(logprobs: tuple[TokenLogprobs, ...]) -> bool:
    """Whether all values can be logarithms of probabilities. vLLM's Neuron fork (0.6 to 0.9) sends token ids instead."""
    values = [value for step in logprobs for value in (step.logprob, *(rival for _, rival in step.likeliest))]
    return all(value <= _MAX_LOGPROB for value in values)


def to_finish_reason(finish: str, stop_reason: Any, sent_max_tokens: int, wanted_max_tokens: int) -> FinishReason | None:
    """Translates why an answer ended. Returns None when the answer was cut off, for example by a content filter.

    Programs have words of their own for the end, such as "eos_token" and "end_turn": a reason that is not known is an end.

    Args:
        finish: finish_reason of the server.
        stop_reason: stop_reason of the server.
        sent_max_tokens: max_tokens in the request to the server; smaller than wanted when the context has no room for more.
        wanted_max_tokens: max_tokens of the user.
    """
    if finish == "length" and stop_reason in ("context_full", "time_limit"):  # sent by another copy of this demo
        return stop_reason
    if finish.lower() in _LENGTH_REASONS:
        return "max_tokens" if sent_max_tokens >= wanted_max_tokens else "context_full"
    if finish.lower() in _CUT_OFF:
        return None
    return "stop_string" if isinstance(stop_reason, str) or finish.lower() in _STOP_STRING_REASONS else "end_of_turn"
