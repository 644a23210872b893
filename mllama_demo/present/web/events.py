"""The JSON that the pages of present mode receive: a scenario, and the events of a streamed answer or rehearsal."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from mllama_demo.chat.live_rendering import LiveRendering
from mllama_demo.chat.rendering import render_answer
from mllama_demo.config.settings import Settings
from mllama_demo.errors import cause_of
from mllama_demo.generation.service import Answer
from mllama_demo.present.presenter import RehearsalStatus
from mllama_demo.present.recording import INCOMPLETE, RecordedStep, Recording
from mllama_demo.present.spec import Scenario
from mllama_demo.sampling import SamplingParams

RENDER_INTERVAL_S = 0.1  # from one rendering of an answer to the next
# A model is taken for hanging after this many seconds without a sign, or after this multiple of the rehearsal's time to the
# first token.
PATIENCE_S = 5.0
PATIENCE_FACTOR = 3.0
TIMED_OUT = 504
_INCOMPLETE_REASONS = {
    "time_limit": (TIMED_OUT, "The answer took longer than the step's time limit."),
    "cancelled": (500, "The answer was ended from elsewhere."),
}


def scenario_json(scenario: Scenario, rehearsal: RehearsalStatus, settings: Settings) -> dict[str, Any]:
    """Returns all that the page needs to play the scenario without the server."""
    recording, steps = rehearsal.recording, []
    for index, step in enumerate(scenario.steps):
        answer = None if recording is None else recording.step(scenario, index)
        image = scenario.images[index]
        steps.append(
            {
                "title": step.title,
                "prompt": step.prompt.strip(),
                "continues": step.continues,
                "notes": step.notes.strip(),
                "image": None if image is None else f"{scenario.name}/images/{image.digest}",
                "parameters": _sampling_text(scenario.samplings[index]),
                "limit_s": min(scenario.time_limit_s(index), settings.request_time_limit_s),
                "recorded": None if recording is None or answer is None else _recorded_json(recording, answer),
                "fingerprint": scenario.fingerprint(index),
            }
        )
    return {
        "title": scenario.script.title,
        "rehearsed": rehearsal.state,
        "sentence": rehearsal.sentence,
        "steps": steps,
        # Of a question from the audience.
        "unscripted": {
            "parameters": _sampling_text(settings.sampling),
            "limit_s": min(scenario.script.time_limit_s, settings.request_time_limit_s),
        },
    }


def _recorded_json(recording: Recording, step: RecordedStep) -> dict[str, Any]:
    return {
        "text": step.answer,
        "html": render_answer(step.answer),
        "total_s": step.total_s,
        "patience_s": max(PATIENCE_S, PATIENCE_FACTOR * (step.ttft_s or 0)),
        "date": recording.date,
        "model": recording.model,
    }


async def rehearsal_events(
    events: AsyncGenerator[Scenario | Recording | RehearsalStatus, None],
) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Scenario):
                yield {"steps": [event.fingerprint(index) for index in range(len(event.steps))]}
            elif isinstance(event, Recording):
                yield _step_result(event)
            else:
                yield {"kept": event.recording is not None, "state": event.state, "sentence": event.sentence}


def _step_result(recording: Recording) -> dict[str, Any]:
    """Returns the result of the last step in the recording, which is the step that just ended."""
    index = len(recording.steps) - 1
    step = recording.steps[index]
    figures = {"ttft_s": step.ttft_s, "total_s": step.total_s, "tokens": step.completion_tokens}
    figures["tokens_per_second"] = step.tokens_per_second
    return {"step": index + 1, "answer": step.answer, "html": render_answer(step.answer), "problems": step.problems, **figures}


def cause_entry(failure: object) -> dict[str, str]:
    """The cause of a failure, which only the operator may read, as an entry of an event; empty when the sentence is the cause."""
    cause = cause_of(failure)
    return {} if cause == str(failure) else {"cause": cause}


async def answer_events(answers: AsyncGenerator[Answer, None], with_cause: bool = False) -> AsyncGenerator[dict[str, Any], None]:
    """Yields the phase and the new text for each state of an answer, and now and then the whole answer so far as HTML.

    Args:
        with_cause: whether the event of a failure has the cause, which only the operator may read.
    """
    sent, next_rendering, rendering = "", 0.0, LiveRendering()
    async with aclosing(answers):
        async for answer in answers:
            event = _answer_event(answer, sent)
            if with_cause and "error" in event:
                event |= cause_entry(event["error"])
            now = time.monotonic()
            if "error" not in event and answer.text and (answer.finish is not None or now >= next_rendering):
                event["html"] = await rendering.render(answer.text, finished=answer.finish is not None)
                next_rendering = now + max(RENDER_INTERVAL_S, rendering.pause_s)
            sent = answer.text
            yield event


def _answer_event(answer: Answer, sent: str) -> dict[str, Any]:
    finish = answer.finish
    if finish is not None and finish.reason in INCOMPLETE:
        status, reason = _INCOMPLETE_REASONS.get(finish.reason, (500, "The answer failed."))
        return {"error": finish.error or reason, "status": status}
    event: dict[str, Any] = {"phase": answer.phase, "text": answer.text[len(sent) :]}
    if answer.position is not None:
        event |= {"position": answer.position, "wait_s": answer.estimated_wait_s}
    if finish is not None:
        speed = finish.timings.tokens_per_second(finish.completion_tokens)
        event["done"] = {"tokens": finish.completion_tokens, "total_s": finish.timings.total_s, "tokens_per_second": speed}
    return event


def _sampling_text(sampling: SamplingParams) -> str:
    """Returns the sampling values of a step as text."""
    if sampling.greedy:
        return f"greedy · at most {sampling.max_tokens} tokens"
    seed = "" if sampling.seed is None else f" · seed {sampling.seed}"
    return (
        f"temperature {sampling.temperature:g} · top-p {sampling.top_p:g} · top-k {sampling.top_k}"
        f" · at most {sampling.max_tokens} tokens{seed}"
    )
