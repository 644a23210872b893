"""`python -m mllama_demo rehearse --scenario NAME`: the check of a whole scenario before the audience arrives.

Asks every step with the deployment's own backend, says what is not as expected, and records the answers for present mode.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import Settings
from mllama_demo.engine.readiness import until_ready
from mllama_demo.errors import ConfigError
from mllama_demo.present.recording import NOT_KEPT, RecordedStep, Recording, keep, place_of
from mllama_demo.present.spec import Scenario, find, names, read_scenario
from mllama_demo.runtime.command_line import VerbParser
from mllama_demo.runtime.process import terminated
from mllama_demo.web.serve import set_up_logging

NOT_AS_EXPECTED = 1


def main(argv: Sequence[str]) -> int:
    """The verb `rehearse`. Exit code 0 when every answer is as expected, 1 when some are not."""
    own, rest = _parser().parse_known_args(argv)
    set_up_logging()
    settings = load_settings(rest, program="python -m mllama_demo rehearse")
    if own.scenario is None:
        known = ", ".join(names(settings.scenarios_dir)) or "none"
        raise ConfigError(f"Name what to rehearse with --scenario; in {settings.scenarios_dir} there are: {known}.")
    scenario = read_scenario(find(own.scenario, settings), settings)
    output = own.output or place_of(scenario, settings)
    with terminated():
        recording = _run(settings, scenario)
    kept = keep(output, recording, scenario, settings)
    failed = sum(bool(step.problems) for step in recording.steps.values())
    total = len(scenario.steps)
    where = f"Recorded in {output}" if kept else NOT_KEPT
    print(f"{total - failed} of {total} steps as expected. {where}", flush=True)
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
        answerer = GenerationService(backend, tokenizer, scenario, settings)
        recording = None
        async with aclosing(rehearse(answerer, scenario)) as recordings:
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
    figures = f"first token {first}, whole {step.total_s:.2f} s, {step.completion_tokens} tokens"
    lines = [f"{'FAILED' if step.problems else 'ok':>6}  {index + 1}. {step.prompt}", f"           {step.answer}"]
    lines += [f"           not as expected: {problem}" for problem in step.problems]
    return "\n".join([*lines, f"           {figures}"])


def _parser() -> argparse.ArgumentParser:
    parser = VerbParser(
        prog="python -m mllama_demo rehearse",
        usage="%(prog)s --scenario NAME|FILE [--output FILE] [--config FILE] [--OPTION VALUE ...]",
        description="Asks every step of a scenario, checks each answer against the shape that its step expects, and records "
        "answers and timings. Present mode plays the recording, labelled as one, when the model fails on stage.",
        epilog="Every option of serve can be given too; serve --help lists them. Exit code: 0 when every answer is as "
        "expected, 1 when some are not, 2 when it cannot run.",
        allow_abbrev=False,
    )
    parser.add_argument("--scenario", metavar="NAME|FILE", help="one in the folder of scenarios, or a YAML file")
    parser.add_argument("--output", metavar="FILE", type=Path, help="the recording; default: in recordings/ of the data folder")
    return parser
