"""The command `rehearse`: asks all steps of a scenario, reports answers that are not as expected, and records the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

from mllama_demo.config.loader import load_settings_and_log
from mllama_demo.config.settings import Settings
from mllama_demo.engine.readiness import until_ready
from mllama_demo.errors import ConfigError
from mllama_demo.present.recording import NOT_SAVED, RecordedStep, Recording, recording_path, save_recording
from mllama_demo.present.spec import Scenario, find, names, read_scenario
from mllama_demo.runtime.process import sigterm_as_interrupt
from mllama_demo.runtime.words import counted

NOT_AS_EXPECTED = 1


def main(options: Sequence[str], name: str | None, output: Path | None) -> int:
    """The command `rehearse`.

    Args:
        options: those of `serve`.
        name: a scenario of the option scenarios_dir, or a YAML file.
        output: the recording to write; None writes it where present mode looks for it.

    Returns:
        The exit code: 0 when every answer is as expected, 1 when some are not.
    """
    settings = load_settings_and_log(options)
    if name is None:
        known = ", ".join(names(settings.scenarios_dir)) or "none"
        raise ConfigError(f"Name what to rehearse with --scenario; in {settings.scenarios_dir} there are: {known}.")
    scenario = read_scenario(find(name, settings), settings)
    output = output or recording_path(scenario, settings)
    with sigterm_as_interrupt():
        recording = _run(settings, scenario)
    saved = save_recording(output, recording, scenario, settings)
    failed = sum(bool(step.problems) for step in recording.steps.values())
    total = len(scenario.steps)
    outcome = f"Recorded in {output}" if saved else NOT_SAVED
    print(f"{total - failed} of {total} steps as expected. {outcome}", flush=True)
    return NOT_AS_EXPECTED if failed else 0


def _run(settings: Settings, scenario: Scenario) -> Recording:
    from mllama_demo.backends import make_backend
    from mllama_demo.generation.service import GenerationService
    from mllama_demo.present.rehearse import rehearse

    backend, tokenizer = make_backend(settings)

    async def run() -> Recording:
        backend.start()
        await until_ready(backend)
        info = backend.info
        print(f"{scenario.script.title}: {len(scenario.steps)} steps with {info.model} on {info.device}", flush=True)
        service = GenerationService(backend, tokenizer, scenario, settings)
        recording = None
        async with aclosing(rehearse(service, scenario)) as recordings:
            async for recording in recordings:
                index = len(recording.steps) - 1
                print(_report(index, recording.steps[index]), flush=True)
        assert recording is not None  # a scenario has a step
        return recording

    try:
        return asyncio.run(run())
    finally:
        backend.close()


def _report(index: int, step: RecordedStep) -> str:
    first = "–" if step.ttft_s is None else f"{step.ttft_s:.2f} s"
    figures = f"first token {first}, whole {step.total_s:.2f} s, {counted(step.completion_tokens, 'token')}"
    lines = [f"{'FAILED' if step.problems else 'ok':>6}  {index + 1}. {step.prompt}", f"           {step.answer}"]
    lines += [f"           not as expected: {problem}" for problem in step.problems]
    return "\n".join([*lines, f"           {figures}"])
