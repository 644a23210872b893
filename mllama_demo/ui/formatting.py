"""Text and HTML for the chat page about answers and the backend. Knows no Gradio."""

from __future__ import annotations

import time
from html import escape

from mllama_demo.chat.conversation import Message
from mllama_demo.chat.message_summary import duration, speed
from mllama_demo.chat.message_tree import Siblings
from mllama_demo.engine.base import BackendInfo, BackendStatus
from mllama_demo.generation.service import Answer
from mllama_demo.runtime.words import counted

LIVE_SPEED_S = 0.3  # before, a speed would be one of the first burst


def queue_position(position: int, estimate: float | None) -> str:
    """The position in the queue, and the estimated wait in seconds where it is known."""
    text = "Next in line" if position == 1 else f"Number {position} in line"
    return text if estimate is None else f"{text}, about {duration(max(estimate, 1.0))} to go"


def status_line(status: BackendStatus, info: BackendInfo) -> str:
    """HTML: the state of the backend, and how long a question sent now would wait."""
    model = f"model {info.model} on {info.device}"
    if status.state != "ready":
        loads = status.state == "loading" and not status.detail.endswith(".")  # else a sentence says what the model waits for
        what = f"Loading the model: {status.detail} …" if loads else status.detail
        return _status(status.state, what, "", model)
    slots = f"{status.running} of {status.slots} slots busy, {status.waiting} waiting"
    if status.running < status.slots and not status.waiting:
        return _status("ready", "Ready · answers at once", slots, model)
    if status.estimated_wait_s is None:
        return _status("busy", "Busy", slots, model)
    wait = duration(max(status.estimated_wait_s, 1.0))
    return _status("busy", f"Busy · a question sent now starts in about {wait}", slots, model)


def _status(state: str, sentence: str, slots: str, model: str) -> str:
    """slots, model: what a kiosk does not show."""
    dot = '<span class="dot" aria-hidden="true"></span>'
    sentence, slots, model = escape(sentence), f" · {escape(slots)}" if slots else "", f" · {escape(model)}"
    # A phone shows one line, without the model; the title has the whole text.
    text = f'<span>{sentence}<span class="figures">{slots}<span class="model">{model}</span></span></span>'
    return f'<div class="status {state}" role="status" title="{sentence}{slots}{model}">{dot}{text}</div>'


def progress(answer: Answer | None, now: float | None = None) -> str:
    """HTML in the place of an answer that has no text yet. now: the time.monotonic() of the update."""
    elapsed = (time.monotonic() if now is None else now) - answer.phase_began if answer else 0.0
    if answer is None:
        text = "Sending …"
    elif answer.phase == "waiting" and answer.position is not None:
        left = None if answer.estimated_wait_s is None else answer.estimated_wait_s - elapsed
        text = queue_position(answer.position, left) + " …"
    elif answer.phase == "reading":
        what = "Looking at the image and reading" if answer.image else "Reading"
        tokens = f'<span class="figures"> {answer.prompt_tokens} tokens</span>' if answer.prompt_tokens else ""
        return f'<span class="progress">{what}{tokens} …{f" {duration(elapsed)}" if elapsed >= 1 else ""}</span>'
    elif answer.phase == "writing":
        text = "Thinking …" + (f" {duration(elapsed)}" if elapsed >= 1 else "")
    else:
        text = "Sending …"
    return f'<span class="progress">{escape(text)}</span>'


def live_line(answer: Answer, context_length: int | None) -> str:
    """HTML under an answer that is being written: tokens read and written, and the speed of both."""
    prompt = answer.prompt_tokens or 0
    about = "about " if answer.estimated else ""
    parts = [] if answer.read_s is None else [f"read {about}{prompt} tokens in {duration(answer.read_s)}"]
    parts.append(f"writing: {about}{counted(answer.tokens, 'token')}")
    if answer.wrote_s >= LIVE_SPEED_S and answer.tokens > 1:
        parts[-1] += f" at {speed((answer.tokens - 1) / answer.wrote_s)}"
    text = escape(" · ".join(parts))
    # For the page, which reports how late it draws; the chatbot would remove a data attribute.
    sent = f"{1000 * time.monotonic():.0f}"
    full = context(prompt + answer.tokens, context_length) if context_length else ""
    return f'<div class="live-metadata sent-{sent}">{text} {full}</div>'


# HTML under a complete answer that the database does not take.
NOT_STORED = (
    '<div class="live-metadata" role="status">The answer is complete, but the database of conversations does not answer. '
    "The demo tries again every second to store it.</div>"
)


def context(used: int, length: int) -> str:
    """HTML: how full the context is, as figures and as a bar."""
    return f'<span class="context">context {used} of {length} {gauge(used, length)}</span>'


def gauge(used: int, length: int) -> str:
    """HTML: a bar that shows how full the context is."""
    full = min(100.0, 100 * used / length) if length else 0.0
    return f'<span class="gauge"><span style="width:{full:.0f}%"></span></span>'


def failure(message: Message, may_retry: bool) -> str:
    """HTML: why an answer failed, and a button that asks the question again. Empty for an answer that did not fail.

    The id of the request is shown, so that a visitor can tell it to the operator.
    """
    if not (sentence := message.metadata.get("error")):
        return ""
    button = '<button type="button" class="message-action try-again">Try again</button>' if may_retry else ""
    id = message.metadata.get("request_id")
    request = f' <small class="request-id">Request {escape(id)}</small>' if id else ""
    return f'<div class="answer-failure"><span>{escape(sentence)}{request}</span>{button}</div>'


# HTML under an answer that ended before the model had finished it.
CONTINUE = '<div class="continue-row"><button type="button" class="message-action continue-answer">Continue</button></div>'


def versions_bar(question: Siblings | None, answer: Siblings | None, later: tuple[int, ...] = (), locked: bool = False) -> str:
    """HTML: arrows between the versions of a question and of its answer. Empty where there is only one version.

    Args:
        question: The question among its versions.
        answer: The answer among its versions.
        later: The numbers of messages that followed here earlier and can be shown again.
        locked: An answer is being written, so that nothing can be changed.
    """
    steppers = [
        _stepper(name, siblings, locked)
        for name, siblings in (("Question", question), ("Answer", answer))
        if siblings is not None and len(siblings.numbers) > 1
    ]
    if later and not locked:
        what = counted(len(later), "later version")
        action = f"message-action restore-version select-version-{later[-1]}"
        steppers.append(f'<button type="button" class="{action}">Bring back {what}</button>')
    return f'<div class="versions">{"".join(steppers)}</div>' if steppers else ""


def _stepper(name: str, siblings: Siblings, locked: bool) -> str:
    def arrow(step: int, word: str) -> str:
        index = siblings.index + step
        if locked or not 0 <= index < len(siblings.numbers):
            target, state = "", " disabled"
        else:
            target, state = f" message-action select-version-{siblings.numbers[index]}", ""
        label = f'<span class="visually-hidden">{word} version of the {name.lower()}</span>'
        return f'<button type="button" class="step {word.lower()}{target}"{state}>{label}</button>'

    number = f'<span class="version-number">{siblings.index + 1} / {len(siblings.numbers)}</span>'
    return f'<span class="stepper">{name} {arrow(-1, "Previous")}{number}{arrow(1, "Next")}</span>'
