"""Rehearses a scenario: asks every step, checks the answer against the expectations of the step, and records it."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from mllama_demo.engine.base import Client
from mllama_demo.errors import DemoError
from mllama_demo.generation.service import Answer, GenerationService
from mllama_demo.present.recording import RecordedStep, Recording, now
from mllama_demo.present.spec import Scenario


async def ask_step(
    service: GenerationService, scenario: Scenario, index: int, answers: dict[int, str], client: Client | None = None
) -> AsyncGenerator[Answer, None]:
    """Streams the states of the answer to one step. Closing the stream cancels the request.

    Args:
        answers: the answers to earlier steps, by index.
        client: who asks; None for the program itself.
    """
    conversation, limit = scenario.conversation(index, answers), scenario.time_limit_s(index)
    answering = service.answer(conversation, scenario.samplings[index], uuid.uuid4().hex, limit, client)
    async with aclosing(answering) as states:
        async for answer in states:
            yield answer


async def rehearse(service: GenerationService, scenario: Scenario) -> AsyncGenerator[Recording, None]:
    """Asks all steps in order, one at a time, and yields the recording so far after each step.

    A step that fails is recorded with the reason, and so are the steps that continue it. Closing the stream cancels the request.
    """
    began, answers, steps = now(), {}, {}
    for index in range(len(scenario.steps)):
        steps[index] = recorded = await _record(service, scenario, index, answers)
        if recorded.complete:
            answers[index] = recorded.answer
        info = service.backend.info
        common = {"scenario": scenario.name, "recorded": began, "model": info.model, "backend": info.name, "device": info.device}
        yield Recording(**common, steps=dict(steps))


async def _record(service: GenerationService, scenario: Scenario, index: int, answers: dict[int, str]) -> RecordedStep:
    step, started = scenario.steps[index], time.perf_counter()
    common: dict[str, Any] = {"fingerprint": scenario.fingerprint(index), "prompt": step.prompt.strip()}
    answer: Answer | None = None
    try:
        async with aclosing(ask_step(service, scenario, index, answers)) as states:
            async for state in states:
                answer = state
    except DemoError as error:
        return RecordedStep(
            **common, answer="", reason="error", prompt_tokens=0, completion_tokens=0, ttft_s=None,
            total_s=time.perf_counter() - started, tokens_per_second=None, problems=(str(error),),
        )  # fmt: skip
    assert answer is not None and answer.finish is not None
    finish = answer.finish
    problems = [finish.error or "the answer failed"] if finish.reason == "error" else []
    if finish.reason in ("time_limit", "cancelled"):
        problems.append(f"the answer was cut off ({finish.reason.replace('_', ' ')})")
    if not problems and step.expect is not None:
        problems = step.expect.problems(answer.text)
    return RecordedStep(
        **common,
        answer=answer.text.strip(),
        reason=finish.reason,
        seed=answer.sampling.seed,
        prompt_tokens=finish.prompt_tokens,
        completion_tokens=finish.completion_tokens,
        ttft_s=finish.timings.ttft_s,
        total_s=finish.timings.total_s,
        tokens_per_second=finish.timings.tokens_per_second(finish.completion_tokens),
        problems=tuple(problems),
    )
