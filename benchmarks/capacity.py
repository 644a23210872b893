"""Checks the capacity plan against the real engine of this machine: a profile is measured, and questions are answered twice.

    python -m benchmarks capacity --write-profile mllama_demo/engine/simulated/profiles/cpu-embedded.yaml

The first time by the PyTorch engine in real time, the second time by the simulation with the measured profile. Both have the
same scheduler, arrivals and lengths. First all questions come at once, then at shares of the rate at which the engine answered
those. A machine is not equally fast at all times: the questions are asked in blocks, and the profile is measured between them.
The first tokens are also simulated on a clock that is as unsteady as the machine was while the engine answered.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import yaml

from benchmarks.device_profile import Engine, Measurement
from benchmarks.machine_speed import RecordingRunner, UnsteadyClock
from benchmarks.record import write
from mllama_demo.capacity.simulation import Instance, Outcome, Question, percentile, simulate
from mllama_demo.capacity.traffic import Arrival, Traffic, draw_arrivals
from mllama_demo.engine.base import Event, FinishEvent, PrefillEvent, TokenEvent
from mllama_demo.engine.simulated.profile import DeviceProfile

MAX_ANSWER = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--questions", type=int, default=100, help="of a block, at each load")
    parser.add_argument("--load", type=float, nargs="+", default=[0.5, 0.8], help="shares of what the engine answered at once")
    parser.add_argument("--write-profile", type=Path, help="write the measured profile")
    parser.add_argument("--json", type=Path, help="write every figure here too")
    args = parser.parse_args()
    engine = Engine(args.slots)
    measurement = Measurement(engine)
    measurement.round()
    answered: dict[float | None, list[tuple[Outcome, RecordingRunner]]] = {load: [] for load in [None, *args.load]}
    for block in range(args.blocks):
        for load, outcomes in answered.items():
            within_s = None if load is None else answered[None][-1][0].lasted_s / load
            outcomes.append(_answered(engine, _arrivals(engine, args.questions, within_s, seed=block)))
            measurement.round()
    profile = measurement.profile()
    if args.write_profile:
        args.write_profile.write_text(_yaml(profile), encoding="utf-8")
    instance = Instance(profile, args.slots, engine.max_seq_len, (), max_waiting=10_000)
    found = []
    print("       load  questions    tokens/s real / simulated       p95 of the first token, s real / simulated / as unsteady")
    for load, outcomes in answered.items():
        real = _together([one for one, _ in outcomes])
        simulated = _together([simulate(_arrivals_of(one), instance) for one, _ in outcomes])
        slownesses = [recorded.slowness(profile) for _, recorded in outcomes]
        unsteady = _together(
            [
                simulate(_arrivals_of(one), instance, new_clock=partial(UnsteadyClock, slowness))
                for (one, _), slowness in zip(outcomes, slownesses, strict=True)
            ]
        )
        rates = [sum(question.tokens for question in one.answered) / one.lasted_s for one in (real, simulated)]
        firsts = [percentile([q.to_first_token_s for q in one.answered], 0.95) for one in (real, simulated, unsteady)]
        name = "all at once" if load is None else f"{load:.0%}"
        print(
            f"{name:>11}  {len(real.questions):9}  {rates[0]:9.1f} / {rates[1]:.1f} ({rates[1] / rates[0] - 1:+.1%})"
            f"  {firsts[0]:14.3f} / {firsts[1]:.3f} ({firsts[1] / firsts[0] - 1:+.1%})"
            f" / {firsts[2]:.3f} ({firsts[2] / firsts[0] - 1:+.1%})"
        )
        found.append({"load": load, "tokens_per_second": rates, "first_token_p95_s": firsts, "slowness": slownesses})
    write(args.json, found)


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcomes of blocks as one."""
    return Outcome([question for one in outcomes for question in one.questions], sum(one.lasted_s for one in outcomes))


def _arrivals_of(outcome: Outcome) -> list[Arrival]:
    return [question.arrival for question in outcome.questions]


def _arrivals(engine: Engine, questions: int, within_s: float | None, seed: int) -> list[Arrival]:
    """So many questions, the same ones for the same seed.

    Args:
        within_s: When the last one comes, in seconds; None for all of them at once.
    """
    habits = Traffic(people=1000, questions_per_minute=1, prompt_tokens=100, answer_tokens=80, images=0.3)
    limits = {"max_prompt": engine.max_seq_len - MAX_ANSWER, "max_answer": MAX_ANSWER, "seed": seed}
    drawn = list(itertools.islice(draw_arrivals(habits, **limits), questions))
    stretch = 0.0 if within_s is None else within_s / drawn[-1].at_s
    return [dataclasses.replace(arrival, at_s=arrival.at_s * stretch) for arrival in drawn]


def _answered(engine: Engine, arrivals: list[Arrival]) -> tuple[Outcome, RecordingRunner]:
    """The same questions in real time, by the real engine."""
    recorded = RecordingRunner(engine.runner)
    scheduler = engine.scheduler(recorded)
    requests = [engine.request(a.prompt_tokens, a.has_image, a.answer_tokens) for a in arrivals]
    asked: dict[str, Question] = {}
    questions = [Question(arrival) for arrival in arrivals]
    waiting = list(zip(requests, questions, strict=True))[::-1]
    began = time.perf_counter()

    def take(events: list[tuple[str, Event]]) -> None:
        now = time.perf_counter() - began
        for request_id, event in events:
            question = asked[request_id]
            if isinstance(event, PrefillEvent):
                question.admitted_s = now
            elif isinstance(event, TokenEvent) and question.first_token_s is None:
                question.first_token_s = now
            elif isinstance(event, FinishEvent):
                question.end_s, question.tokens = now, event.completion_tokens

    while waiting or scheduler.has_work():
        while waiting and waiting[-1][1].arrival.at_s <= time.perf_counter() - began:
            request, question = waiting.pop()
            asked[request.id] = question
            scheduler.submit(request)
        if scheduler.has_work():
            step_began = time.perf_counter()
            take(scheduler.step(take))
            recorded.end_step(step_began - began, time.perf_counter() - step_began)
        else:
            time.sleep(max(0.0, waiting[-1][1].arrival.at_s - (time.perf_counter() - began)))
    end = max(question.end_s or 0.0 for question in questions)
    return Outcome(questions, end - arrivals[0].at_s), recorded


def _yaml(profile: DeviceProfile) -> str:
    values = {
        name: value
        for name, value in dataclasses.asdict(profile).items()
        if value not in ("", None, {}) and (value != 0 or name == "estimated")
    }
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None)


if __name__ == "__main__":
    main()
