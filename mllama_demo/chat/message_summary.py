"""What people read about an answer: short phrases made of a message's metadata, as plain text.

Exports, shared pages and the chat page all use these phrases. Knows nothing of HTML.
"""

from __future__ import annotations

from typing import Any, Literal

from mllama_demo.chat.conversation import Message
from mllama_demo.sampling import BOUNDS, MIN_DECODE_S

EndReason = Literal[
    "end_of_turn", "stop_string", "max_tokens", "context_full", "time_limit", "cancelled", "abandoned", "cut_off", "error"
]  # fmt: skip
END_REASONS: dict[EndReason, str] = {
    "end_of_turn": "finished",
    "stop_string": "stopped at a stop string",
    "max_tokens": "stopped at max tokens",
    "context_full": "stopped: the context is full",
    "time_limit": "stopped at the time limit",
    "cancelled": "stopped by hand",
    "abandoned": "stopped: nobody was watching",
    "cut_off": "cut off: the demo failed",
    "error": "failed",
}


def duration(seconds: float) -> str:
    """A duration in two or three digits: 40 ms, 0.4 s, 12 s, 3 min."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def speed(tokens_per_second: float) -> str:
    return f"{tokens_per_second:.1f} tokens/s" if tokens_per_second < 10 else f"{tokens_per_second:.0f} tokens/s"


def credible_speed(metadata: dict[str, Any]) -> float | None:
    """The decode speed of an answer in tokens a second; None where it is not known.

    The speed of tokens that arrived in one burst is how fast they were sent, not how fast they were generated. Answers that were
    stored before bursts were recognised may have one.
    """
    tokens_per_second, tokens = metadata.get("tokens_per_second"), metadata.get("completion_tokens")
    if not tokens_per_second or (tokens is not None and (tokens - 1) / tokens_per_second < MIN_DECODE_S):
        return None
    return tokens_per_second


def answer_figures(answer: Message) -> list[str]:
    """How fast the answer was, why it ended, and what was left out of its prompt or changed in its sampling."""
    metadata = answer.metadata
    parts = []
    if metadata.get("imported"):
        parts.append("imported, as its file says")
    if (metadata.get("waited_s") or 0) >= 1:
        parts.append(f"waited {duration(metadata['waited_s'])}")
    if metadata.get("ttft_s") is not None:
        parts.append(f"first token after {duration(metadata['ttft_s'])}")
    if (tokens_per_second := credible_speed(metadata)) is not None:
        parts.append(speed(tokens_per_second))
    if metadata.get("prompt_tokens") is not None:
        about = "about " if metadata.get("estimated") else ""
        parts.append(f"read {about}{metadata['prompt_tokens']}, wrote {about}{metadata.get('completion_tokens') or 0} tokens")
    if metadata.get("reason"):
        parts.append(END_REASONS[metadata["reason"]])
    if metadata.get("error"):
        parts.append(metadata["error"])
    parts += left_out(metadata)
    if metadata.get("top_k_limit"):
        parts.append(f"top_k limited to {metadata['top_k_limit']}")
    return parts


def left_out(metadata: dict[str, Any]) -> list[str]:
    """How many messages the model did not read, as one sentence; no sentence where it read all."""
    n = metadata.get("dropped")
    if not n:
        return []
    return [f"the {n} oldest message{'s' if n > 1 else ''} did not fit and {'were' if n > 1 else 'was'} left out"]


def image_seen(image: dict[str, Any] | None) -> str:
    """The image that an answer was made from, with its size and its tiles.

    Args:
        image: the answer's metadata["image"]; rows and columns are missing when a server does not report its tiles.
    """
    if image is None:
        return "no image"
    seen = f"saw {image['name']}, {image['width']} × {image['height']} px"
    if not image.get("rows") or not image.get("columns"):
        return seen
    tiles = image["rows"] * image["columns"]
    return f"{seen}, {tiles} tiles, {image['rows']} × {image['columns']}" if tiles > 1 else f"{seen}, 1 tile"


def images_set_aside(question: Message) -> str:
    """The images that came with a question and that the model did not get; empty when there are none."""
    names = question.metadata.get("set_aside")
    return f"set aside: {', '.join(names)}" if names else ""


def sampling_values(sampling: dict[str, Any]) -> str:
    """The sampling parameters of an answer."""
    past_end = ", past the model's own end" if sampling.get("ignore_eos") else ""  # older answers lack this key
    if sampling["temperature"] == 0:
        return f"greedy, max tokens {sampling['max_tokens']}{past_end}"
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed")
    shown = [f"{BOUNDS[name].label.lower()} {sampling[name]}" for name in names if sampling[name] is not None]
    return ", ".join(shown) + past_end
