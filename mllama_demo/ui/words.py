"""What the UI says about conversations, answers and the backend: values in, text and HTML out. No Gradio."""

from __future__ import annotations

from html import escape
from typing import Any

from mllama_demo.answer import Answer
from mllama_demo.backend.base import BackendInfo, BackendStatus
from mllama_demo.conversation import Conversation, Message

REASONS = {
    "end_of_turn": "finished",
    "stop_string": "stopped at a stop string",
    "max_tokens": "stopped at max tokens",
    "context_full": "stopped: the context is full",
    "time_limit": "stopped at the time limit",
    "cancelled": "stopped by you",
    "abandoned": "stopped: the page was closed",
    "error": "failed",
}


def seconds(value: float) -> str:
    """Short and honest: 40 ms, 0.4 s, 12 s, 3 min."""
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"


def wait_in_words(position: int, estimate: float | None) -> str:
    """Where in the queue, for the person who stands in it."""
    place = "Next in line" if position == 1 else f"Number {position} in line"
    return place if estimate is None else f"{place}, about {seconds(max(estimate, 1.0))} to go"


def status_line(status: BackendStatus, info: BackendInfo) -> str:
    """HTML: the backend at this moment, and what a question sent now would meet."""
    if status.state != "ready":
        what = f"Loading the model: {status.detail} …" if status.state == "loading" else status.detail
        return _status(status.state, what)
    busy = f"{status.running} of {status.slots} slots busy"
    if status.running < status.slots and not status.waiting:
        what = f"Ready · {busy} · your question starts at once"
    elif status.estimated_wait_s is None:
        what = f"Busy · {busy}, {status.waiting} waiting"
    else:
        wait = seconds(max(status.estimated_wait_s, 1.0))
        what = f"Busy · {busy}, {status.waiting} waiting · a question sent now starts in about {wait}"
    state = "ready" if what.startswith("Ready") else "busy"
    return _status(state, f"{what} · model {info.model}")


def _status(state: str, text: str) -> str:
    return f'<div class="status {state}" role="status"><span class="dot" aria-hidden="true"></span>{escape(text)}</div>'


def progress(answer: Answer | None) -> str:
    """HTML shown in the place of an answer that has no text yet."""
    if answer is None:
        text = "Sending …"
    elif answer.phase == "waiting" and answer.position is not None:
        text = wait_in_words(answer.position, answer.estimated_wait_s) + " …"
    elif answer.phase == "reading":
        text = "Looking at the image …" if answer.image else "Reading …"
    else:
        text = "Sending …"
    return f'<span class="progress">{escape(text)}</span>'


def facts_line(message: Message) -> str:
    """HTML under an answer: what it saw, how fast it was, why it ended. Empty for messages without figures."""
    facts = message.facts
    if not facts:
        return ""
    parts = [saw(facts.get("image"))]
    if facts.get("ttft_s") is not None:
        parts.append(f"first token after {seconds(facts['ttft_s'])}")
    if facts.get("tokens_per_second"):
        speed = facts["tokens_per_second"]
        parts.append(f"{speed:.1f} tokens/s" if speed < 10 else f"{speed:.0f} tokens/s")
    if "prompt_tokens" in facts:
        about = "about " if facts.get("estimated") else ""
        parts.append(f"{about}{facts['prompt_tokens']} + {facts['completion_tokens']} tokens")
    if "reason" in facts:
        parts.append(REASONS[facts["reason"]])
    if facts.get("error"):
        parts.append(facts["error"])
    if facts.get("dropped"):
        n = facts["dropped"]
        parts.append(f"the {n} oldest message{'s' if n > 1 else ''} did not fit and {'were' if n > 1 else 'was'} left out")
    if facts.get("top_k_limit"):
        parts.append(f"top_k limited to {facts['top_k_limit']}")
    sampling = facts.get("sampling")
    title = escape(sampling_words(sampling)) if sampling else ""
    return f'<div class="facts" title="{title}">{escape(" · ".join(parts))}</div>'


def saw(image: dict[str, Any] | None) -> str:
    """Which image an answer was made from."""
    if image is None:
        return "no image"
    seen = f"saw {image['name']}, {image['width']} × {image['height']} px"
    if "rows" not in image:  # a server that does not tell how it cuts images
        return seen
    tiles = image["rows"] * image["columns"]
    return f"{seen}, {tiles} tiles, {image['rows']} × {image['columns']}" if tiles > 1 else f"{seen}, 1 tile"


def sampling_words(sampling: dict[str, Any]) -> str:
    """The values an answer was drawn with."""
    if sampling["temperature"] == 0:
        return f"greedy, max tokens {sampling['max_tokens']}"
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed")
    return ", ".join(f"{name} {sampling[name]}" for name in names if sampling[name] is not None)


def title_of(conversation: Conversation) -> str:
    """The name in the list: its own, or how it began."""
    if conversation.title:
        return conversation.title
    first = next((m for m in conversation.messages if m.role == "user"), None)
    if first is None:
        return "New chat"
    words = " ".join(first.text.split()) or (first.image.name if first.image else "Image")
    return words if len(words) <= 48 else words[:47].rstrip() + "…"
