"""What the UI says about conversations, answers and the backend: values in, text and HTML out. No Gradio."""

from __future__ import annotations

import time
from html import escape
from typing import Any

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.chat.message_tree import Siblings
from mllama_demo.engine.base import BackendInfo, BackendStatus
from mllama_demo.generation.service import Answer

REASONS = {
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
    model = f"model {info.model} on {info.device}"
    if status.state != "ready":
        what = f"Loading the model: {status.detail} …" if status.state == "loading" else status.detail
        return _status(status.state, f"{what} · {model}")
    figures = f"{status.running} of {status.slots} slots busy, {status.waiting} waiting"
    if status.running < status.slots and not status.waiting:
        return _status("ready", f"Ready · answers at once · {figures} · {model}")
    if status.estimated_wait_s is None:
        return _status("busy", f"Busy · {figures} · {model}")
    wait = seconds(max(status.estimated_wait_s, 1.0))
    return _status("busy", f"Busy · a question sent now starts in about {wait} · {figures} · {model}")


def _status(state: str, text: str) -> str:
    dot = '<span class="dot" aria-hidden="true"></span>'
    # A phone shows one line of it.
    return f'<div class="status {state}" role="status" title="{escape(text)}">{dot}{escape(text)}</div>'


def progress(answer: Answer | None, now: float | None = None) -> str:
    """HTML shown in the place of an answer that has no text yet. now: time.monotonic()."""
    passed = (time.monotonic() if now is None else now) - answer.since if answer else 0.0
    if answer is None:
        text = "Sending …"
    elif answer.phase == "waiting" and answer.position is not None:
        left = None if answer.estimated_wait_s is None else answer.estimated_wait_s - passed
        text = wait_in_words(answer.position, left) + " …"
    elif answer.phase == "reading":
        what = "Looking at the image and reading" if answer.image else "Reading"
        text = what + (f" {answer.prompt_tokens} tokens" if answer.prompt_tokens else "") + " …"
        text += f" {seconds(passed)}" if passed >= 1 else ""
    else:
        text = "Sending …"
    return f'<span class="progress">{escape(text)}</span>'


def live_line(answer: Answer, context_length: int) -> str:
    """HTML under an answer that is being written: what was read and how fast, what is being written and how fast."""
    prompt = answer.prompt_tokens or 0
    about = "about " if answer.estimated else ""
    parts = [] if answer.read_s is None else [f"read {about}{prompt} tokens in {seconds(answer.read_s)}"]
    parts.append(f"writing: {about}{answer.tokens} token{'' if answer.tokens == 1 else 's'}")
    if answer.wrote_s > 0 and answer.tokens > 1:
        parts[-1] += f" at {speed((answer.tokens - 1) / answer.wrote_s)}"
    text = escape(" · ".join(parts))
    made = f"{1000 * time.time():.0f}"  # from which the page tells how far behind it is; a class, since those are left alone
    return f'<div class="live made-{made}">{text} {context(prompt + answer.tokens, context_length)}</div>'


def speed(tokens_per_second: float) -> str:
    return f"{tokens_per_second:.1f} tokens/s" if tokens_per_second < 10 else f"{tokens_per_second:.0f} tokens/s"


def context(used: int, length: int) -> str:
    """HTML: how full the context is, as figures and as a bar."""
    full = min(100.0, 100 * used / length) if length else 0.0
    bar = f'<span class="gauge"><span style="width:{full:.0f}%"></span></span>'
    return f'<span class="context">context {used} of {length} {bar}</span>'


def figures(message: Message) -> list[str]:
    """How fast an answer was, why it ended, what else there is to say about it; each a few words, not HTML."""
    facts = message.metadata
    parts = []
    if facts.get("imported"):
        parts.append("imported, as its file says")
    if (facts.get("waited_s") or 0) >= 1:
        parts.append(f"waited {seconds(facts['waited_s'])}")
    if facts.get("ttft_s") is not None:
        parts.append(f"first token after {seconds(facts['ttft_s'])}")
    if facts.get("tokens_per_second"):
        parts.append(speed(facts["tokens_per_second"]))
    if facts.get("prompt_tokens") is not None:
        about = "about " if facts.get("estimated") else ""
        parts.append(f"read {about}{facts['prompt_tokens']}, wrote {about}{facts.get('completion_tokens') or 0} tokens")
    if facts.get("reason"):
        parts.append(REASONS[facts["reason"]])
    if facts.get("error"):
        parts.append(facts["error"])
    if facts.get("dropped"):
        n = facts["dropped"]
        parts.append(f"the {n} oldest message{'s' if n > 1 else ''} did not fit and {'were' if n > 1 else 'was'} left out")
    if facts.get("top_k_limit"):
        parts.append(f"top_k limited to {facts['top_k_limit']}")
    return parts


def facts_line(message: Message, number: int | None = None, question: Message | None = None) -> str:
    """HTML under an answer: what it saw, how fast it was, why it ended. Empty for messages without figures.

    number: of the answer in its tree; what it saw can then be looked at. question: what was answered.
    """
    facts = message.metadata
    if not facts:
        return ""
    seen = escape(saw(facts.get("image")))
    between = " · "
    if number is not None and facts.get("image"):
        seen = f'<button type="button" class="act saw act-look-{number}" title="Show what the model saw">{seen}</button>'
        between = '<span class="between"> · </span>'  # not on the page, where the button has its own line
    rest = figures(message)
    if question is not None and (aside := set_aside(question)):
        rest.insert(0, aside)
    said = " · ".join(map(escape, rest))
    if facts.get("context_length") and facts.get("prompt_tokens") is not None:
        used = facts["prompt_tokens"] + (facts.get("completion_tokens") or 0)
        said += " " + context(used, facts["context_length"])
    sampling = facts.get("sampling")
    title = escape(sampling_words(sampling)) if sampling else ""
    return f'<div class="facts" title="{title}">{seen}{between if said else ""}{said}</div>'


def set_aside(question: Message) -> str:
    """The images that came with a question and that the model did not get; empty when there are none."""
    names = question.metadata.get("set_aside")
    return f"set aside: {', '.join(names)}" if names else ""


def versions_bar(question: Siblings | None, answer: Siblings | None, later: tuple[int, ...] = (), locked: bool = False) -> str:
    """HTML: arrows between the versions of a question and of its answer, where there are several.

    later: numbers of messages that once followed here and can be shown again. locked: nothing can be changed right now.
    """
    steppers = [
        _stepper(name, versions, locked)
        for name, versions in (("Question", question), ("Answer", answer))
        if versions is not None and len(versions.numbers) > 1
    ]
    if later and not locked:
        what = "1 later version" if len(later) == 1 else f"{len(later)} later versions"
        steppers.append(f'<button type="button" class="act later act-walk-{later[-1]}">Bring back {what}</button>')
    return f'<div class="versions">{"".join(steppers)}</div>' if steppers else ""


def _stepper(name: str, versions: Siblings, locked: bool) -> str:
    def arrow(step: int, word: str) -> str:
        index = versions.index + step
        if locked or not 0 <= index < len(versions.numbers):
            target, state = "", " disabled"
        else:
            target, state = f" act act-walk-{versions.numbers[index]}", ""
        label = f'<span class="unseen">{word} version of the {name.lower()}</span>'
        return f'<button type="button" class="step {word.lower()}{target}"{state}>{label}</button>'

    place = f'<span class="place">{versions.index + 1} / {len(versions.numbers)}</span>'
    return f'<span class="stepper">{name} {arrow(-1, "Previous")}{place}{arrow(1, "Next")}</span>'


def saw(image: dict[str, Any] | None) -> str:
    """WhichImage image an answer was made from."""
    if image is None:
        return "no image"
    seen = f"saw {image['name']}, {image['width']} × {image['height']} px"
    if not image.get("rows") or not image.get("columns"):  # a server that does not tell how it cuts images
        return seen
    tiles = image["rows"] * image["columns"]
    return f"{seen}, {tiles} tiles, {image['rows']} × {image['columns']}" if tiles > 1 else f"{seen}, 1 tile"


def sampling_words(sampling: dict[str, Any]) -> str:
    """The values an answer was drawn with."""
    past = ", past the model's own end" if sampling.get("ignore_eos") else ""  # older answers know nothing of it
    if sampling["temperature"] == 0:
        return f"greedy, max tokens {sampling['max_tokens']}{past}"
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed")
    return ", ".join(f"{name} {sampling[name]}" for name in names if sampling[name] is not None) + past


def title_of(conversation: Conversation) -> str:
    """The name in the list: its own, or how it began."""
    if conversation.title:
        return conversation.title
    first = next((m for m in conversation.messages if m.role == "user"), None)
    if first is None:
        return "New chat"
    words = " ".join(first.text.split()) or (first.image.name if first.image else "Image")
    return words if len(words) <= 48 else words[:47].rstrip() + "…"
