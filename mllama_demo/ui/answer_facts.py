"""The facts of an answer: one line under the answer that opens to a list of values, each of which can be copied."""

from __future__ import annotations

from html import escape
from typing import Any

from mllama_demo.chat.conversation import Message
from mllama_demo.chat.message_summary import (
    END_REASONS,
    credible_speed,
    duration,
    image_seen,
    images_set_aside,
    left_out,
    sampling_values,
    speed,
)
from mllama_demo.runtime.words import counted
from mllama_demo.sampling import BOUNDS
from mllama_demo.ui.formatting import gauge
from mllama_demo.ui.message_actions import copy_button

Facts = list[tuple[str, str]]


def answer_facts(message: Message, number: int | None = None, question: Message | None = None) -> str:
    """Returns the HTML of the facts. Empty for a message without metadata.

    Args:
        message: The answer.
        number: Its number in the message tree, for the buttons that show the tiles and set the values. None for no such buttons.
        question: The question that was answered.
    """
    metadata = message.metadata
    if not metadata:
        return ""
    aside = images_set_aside(question) if question is not None else ""
    facts = _facts(metadata, aside)
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}{_gauge(metadata) if name == 'Context' else ''}</dd>"
        f"{copy_button(value, f'Copy {name.lower()}')}</div>"
        for name, value in facts
    )
    whole = copy_button("\n".join(f"{name}: {value}" for name, value in facts), "Copy all", label="Copy all")
    actions = _actions(metadata, number) + whole
    return (
        f'<details class="answer-metadata"><summary><span class="figures">{escape(_line(metadata, aside))}</span></summary>'
        f'<dl class="figures">{rows}</dl><div class="fact-actions">{actions}</div></details>'
    )


def _line(metadata: dict[str, Any], aside: str) -> str:
    """What a reader should know without opening the list."""
    parts = [image_seen(metadata.get("image")) if metadata.get("image") else "", aside, *left_out(metadata)]
    if metadata.get("imported"):
        parts.append("imported")
    if metadata.get("reason") not in (None, "end_of_turn"):
        parts.append(END_REASONS[metadata["reason"]])
    if metadata.get("completion_tokens") is not None:
        parts.append(_count(metadata, "completion_tokens"))
    if (tokens_per_second := credible_speed(metadata)) is not None:
        parts.append(speed(tokens_per_second))
    return " · ".join(part for part in parts if part) or "About this answer"


def _facts(metadata: dict[str, Any], aside: str) -> Facts:
    """Names and values, in the order of the list."""
    facts: Facts = [("Image", image_seen(metadata.get("image")))]
    if aside:
        facts.append(("Other images", aside))
    facts += _sampling_facts(metadata)
    if metadata.get("waited_s") is not None and metadata["waited_s"] >= 1:
        facts.append(("In the queue", f"waited {duration(metadata['waited_s'])}"))
    if metadata.get("ttft_s") is not None:
        facts.append(("First token", f"after {duration(metadata['ttft_s'])}"))
    if (tokens_per_second := credible_speed(metadata)) is not None:
        facts.append(("Speed", speed(tokens_per_second)))
    if metadata.get("prompt_tokens") is not None:
        facts.append(("Read", _count(metadata, "prompt_tokens")))
        facts.append(("Wrote", _count(metadata, "completion_tokens")))
        if metadata.get("context_length"):
            facts.append(("Context", f"{_used(metadata)} of {metadata['context_length']} tokens"))
    facts += [("Left out", sentence) for sentence in left_out(metadata)]
    if metadata.get("reason"):
        facts.append(("End", END_REASONS[metadata["reason"]]))
    if metadata.get("imported"):
        facts.append(("Source", "imported, as its file says"))
    return facts


def _sampling_facts(metadata: dict[str, Any]) -> Facts:
    sampling = metadata.get("sampling")
    if not sampling:
        return []
    facts: Facts = []
    if sampling["temperature"] == 0:
        facts.append((BOUNDS["temperature"].label, "0 (greedy)"))
    else:
        facts += [(BOUNDS[name].label, str(sampling[name])) for name in ("temperature", "top_p", "top_k")]
    if metadata.get("top_k_limit"):
        facts.append(("Top-k of the backend", f"limited to {metadata['top_k_limit']}"))
    facts.append((BOUNDS["max_tokens"].label, str(sampling["max_tokens"])))
    if sampling.get("seed") is not None:
        facts.append((BOUNDS["seed"].label, str(sampling["seed"])))
    if sampling.get("stop"):
        facts.append(("Stop strings", ", ".join(map(repr, sampling["stop"]))))
    if sampling.get("ignore_eos"):  # older answers lack this key
        facts.append(("Ignore the end", "past the model's own end"))
    return facts


def _actions(metadata: dict[str, Any], number: int | None) -> str:
    if number is None:
        return ""
    buttons = ""
    if metadata.get("image"):
        action = f'class="message-action image-seen preview-{number}" title="Show the tiles of the image"'
        buttons += f'<button type="button" {action}>What the model saw</button>'
    if sampling := metadata.get("sampling"):
        title = escape(sampling_values(sampling))
        buttons += (
            f'<button type="button" class="use-values figures" data-number="{number}" title="{title}">Use these values</button>'
        )
    return buttons


def _used(metadata: dict[str, Any]) -> int:
    return metadata["prompt_tokens"] + (metadata.get("completion_tokens") or 0)


def _gauge(metadata: dict[str, Any]) -> str:
    return " " + gauge(_used(metadata), metadata["context_length"])


def _count(metadata: dict[str, Any], name: str) -> str:
    number = metadata.get(name) or 0
    return f"{'about ' if metadata.get('estimated') else ''}{counted(number, 'token')}"
