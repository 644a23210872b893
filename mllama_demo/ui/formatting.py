"""What the UI says about conversations, answers and the backend: values in, text and HTML out. No Gradio."""

from __future__ import annotations

import time
from html import escape

from mllama_demo.chat.conversation import Message
from mllama_demo.chat.message_summary import answer_figures, duration, image_seen, images_set_aside, sampling_values, speed
from mllama_demo.chat.message_tree import Siblings
from mllama_demo.engine.base import BackendInfo, BackendStatus
from mllama_demo.generation.service import Answer


def wait_in_words(position: int, estimate: float | None) -> str:
    """Where in the queue, for the person who stands in it."""
    place = "Next in line" if position == 1 else f"Number {position} in line"
    return place if estimate is None else f"{place}, about {duration(max(estimate, 1.0))} to go"


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
    wait = duration(max(status.estimated_wait_s, 1.0))
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
        text += f" {duration(passed)}" if passed >= 1 else ""
    else:
        text = "Sending …"
    return f'<span class="progress">{escape(text)}</span>'


def live_line(answer: Answer, context_length: int) -> str:
    """HTML under an answer that is being written: what was read and how fast, what is being written and how fast."""
    prompt = answer.prompt_tokens or 0
    about = "about " if answer.estimated else ""
    parts = [] if answer.read_s is None else [f"read {about}{prompt} tokens in {duration(answer.read_s)}"]
    parts.append(f"writing: {about}{answer.tokens} token{'' if answer.tokens == 1 else 's'}")
    if answer.wrote_s > 0 and answer.tokens > 1:
        parts[-1] += f" at {speed((answer.tokens - 1) / answer.wrote_s)}"
    text = escape(" · ".join(parts))
    made = f"{1000 * time.time():.0f}"  # from which the page tells how far behind it is; a class, since those are left alone
    return f'<div class="live made-{made}">{text} {context(prompt + answer.tokens, context_length)}</div>'


def context(used: int, length: int) -> str:
    """HTML: how full the context is, as figures and as a bar."""
    full = min(100.0, 100 * used / length) if length else 0.0
    bar = f'<span class="gauge"><span style="width:{full:.0f}%"></span></span>'
    return f'<span class="context">context {used} of {length} {bar}</span>'


def facts_line(message: Message, number: int | None = None, question: Message | None = None) -> str:
    """HTML under an answer: what it saw, how fast it was, why it ended. Empty for messages without figures.

    number: of the answer in its tree; what it saw can then be looked at. question: what was answered.
    """
    facts = message.metadata
    if not facts:
        return ""
    seen = escape(image_seen(facts.get("image")))
    between = " · "
    if number is not None and facts.get("image"):
        seen = f'<button type="button" class="act saw act-look-{number}" title="Show what the model saw">{seen}</button>'
        between = '<span class="between"> · </span>'  # not on the page, where the button has its own line
    rest = answer_figures(message)
    if question is not None and (aside := images_set_aside(question)):
        rest.insert(0, aside)
    said = " · ".join(map(escape, rest))
    if facts.get("context_length") and facts.get("prompt_tokens") is not None:
        used = facts["prompt_tokens"] + (facts.get("completion_tokens") or 0)
        said += " " + context(used, facts["context_length"])
    sampling = facts.get("sampling")
    title = escape(sampling_values(sampling)) if sampling else ""
    return f'<div class="facts" title="{title}">{seen}{between if said else ""}{said}</div>'


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
