"""Checks the capacity plan against the real engine of this machine: a profile is measured, and questions are answered twice.

    python -m benchmarks capacity --write-profile mllama_demo/engine/simulated/profiles/cpu-embedded.yaml

The first time by the PyTorch engine in real time, the second time by the simulation with the measured profile. Both have the
same scheduler, arrivals and lengths. First all questions come at once, then at shares of the rate at which the engine answered
those. A machine is not equally fast at all times: the questions are asked in blocks, and the profile is measured between them.
A reference says how fast it is: a decode step of another engine, taken every few steps, with the clock stopped.

The questions are simulated three times: by the times of the profile alone, with the slowness of the reference in the half seconds
in which the profile was measured, and with its slowness in the half seconds in which the engine answered.
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

from benchmarks.device_profile import DecodeSteps, Engine, Measurement
from benchmarks.machine_speed import Reference
from benchmarks.record import write
from mllama_demo.capacity.simulation import Instance, Outcome, Question, percentile, simulate
from mllama_demo.capacity.traffic import Arrival, Traffic, draw_arrivals
from mllama_demo.engine.base import Event, FinishEvent, PrefillEvent, TokenEvent
from mllama_demo.engine.simulated.profile import DeviceProfile
from mllama_demo.engine.simulated.runner import UnsteadyClock

MAX_ANSWER = 400
DRAWS = 3  # how often each block is simulated with a drawn slowness


@dataclasses.dataclass(frozen=True)
class Block:
    """Questions that the engine answered.

    Attributes:
        began, ended: By the clock of the reference.
    """

    outcome: Outcome
    began: float
    ended: float

    @property
    def arrivals(self) -> list[Arrival]:
        return [question.arrival for question in self.outcome.questions]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--questions", type=int, default=100, help="of a block, at each load")
    parser.add_argument("--load", type=float, nargs="+", default=[0.5, 0.8], help="shares of what the engine answered at once")
    parser.add_argument("--write-profile", type=Path, help="write the measured profile")
    parser.add_argument("--json", type=Path, help="write every figure here too")
    args = parser.parse_args()
    engine, reference = Engine(args.slots), Reference(DecodeSteps())
    measurement = Measurement(engine, reference)
    blocks: dict[float | None, list[Block]] = {load: [] for load in [None, *args.load]}
    for seed in range(args.blocks):
        measurement.round()
        blocks[None].append(_answered(engine, reference, _arrivals(engine, args.questions, None, seed)))
        each_s = blocks[None][-1].outcome.lasted_s / args.questions
        for load in args.load:
            arrivals = _arrivals(engine, args.questions, args.questions * each_s / load, seed)
            blocks[load].append(_answered(engine, reference, arrivals))
    profile = measurement.profile()
    if args.write_profile:
        args.write_profile.write_text(_yaml(profile), encoding="utf-8")
    instance = Instance(profile, args.slots, engine.max_seq_len, (), max_waiting=10_000)
    found = []
    print("       load  questions                        tokens/s     first token p95, s")
    for load, answered in blocks.items():
        real = _together([block.outcome for block in answered])
        beside = [reference.slowness(block.began, block.ended, measurement.reference_s) for block in answered]
        simulated = {
            "times alone": _simulated(answered, dataclasses.replace(instance, profile=dataclasses.replace(profile, slowness=()))),
            "with slowness": _together([_simulated(answered, instance, seed) for seed in range(DRAWS)]),
            "as the reference": _together(
                [
                    simulate(block.arrivals, instance, new_clock=partial(UnsteadyClock, factors))
                    for block, factors in zip(answered, beside, strict=True)
                ]
            ),
        }
        name = "all at once" if load is None else f"{load:.0%}"
        halves = [_first_token_s(_together([block.outcome for block in answered[half::2] or answered])) for half in (0, 1)]
        rate_s, first_s = _rate(real), _first_token_s(real)
        print(f"{name:>11}  {len(real.questions):9}  engine            {rate_s:7.0f}           {first_s:.3f}", end="  ")
        print(f"(of each half of the blocks: {halves[0]:.3f}, {halves[1]:.3f})")
        for kind, outcome in simulated.items():
            rate, first = _rate(outcome), _first_token_s(outcome)
            print(f"{kind:>40}  {rate:7.0f} ({rate / rate_s - 1:+4.0%})   {first:.3f} ({first / first_s - 1:+.0%})", flush=True)
        figures = {kind: (_rate(outcome), _first_token_s(outcome)) for kind, outcome in {"engine": real, **simulated}.items()}
        found.append({"load": load, "rate_and_first_token_p95": figures, "halves": halves, "beside": beside})
    write(args.json, found)


def _simulated(answered: Sequence[Block], instance: Instance, seed: int = 0) -> Outcome:
    """The same questions in the simulation. Each block has another begin in the profile's slowness."""
    return _together(
        [simulate(block.arrivals, instance, seed=len(answered) * seed + index) for index, block in enumerate(answered)]
    )


def _rate(outcome: Outcome) -> float:
    """Tokens a second."""
    return sum(question.tokens for question in outcome.answered) / outcome.lasted_s


def _first_token_s(outcome: Outcome) -> float:
    """The p95."""
    return percentile([question.to_first_token_s for question in outcome.answered], 0.95)


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcomes of blocks as one."""
    return Outcome([question for one in outcomes for question in one.questions], sum(one.lasted_s for one in outcomes))


def _arrivals(engine: Engine, questions: int, within_s: float | None, seed: int) -> list[Arrival]:
    """So many questions, the same ones for the same seed.

    Args:
        within_s: When the last one comes, in seconds; None for all of them at once.
    """
    habits = Traffic(people=1000, questions_per_minute=1, prompt_tokens=60, answer_tokens=40, images=0.3)
    limits = {"max_prompt": engine.max_seq_len - MAX_ANSWER, "max_answer": MAX_ANSWER, "seed": seed}
    drawn = list(itertools.islice(draw_arrivals(habits, **limits), questions))
    stretch = 0.0 if within_s is None else within_s / drawn[-1].at_s
    return [dataclasses.replace(arrival, at_s=arrival.at_s * stretch) for arrival in drawn]


def _answered(engine: Engine, reference: Reference, arrivals: list[Arrival]) -> Block:
    """The questions in real time, by the real engine. Time is that of the reference's clock."""
    scheduler = engine.scheduler()
    requests = [engine.request(a.prompt_tokens, a.has_image, a.answer_tokens) for a in arrivals]
    asked: dict[str, Question] = {}
    questions = [Question(arrival) for arrival in arrivals]
    waiting = list(zip(requests, questions, strict=True))[::-1]
    began = reference.now()

    def take(events: list[tuple[str, Event]]) -> None:
        now = reference.now() - began
        for request_id, event in events:
            question = asked[request_id]
            if isinstance(event, PrefillEvent):
                question.admitted_s = now
            elif isinstance(event, TokenEvent) and question.first_token_s is None:
                question.first_token_s = now
            elif isinstance(event, FinishEvent):
                question.end_s, question.tokens = now, event.completion_tokens

    while waiting or scheduler.has_work():
        while waiting and waiting[-1][1].arrival.at_s <= reference.now() - began:
            request, question = waiting.pop()
            asked[request.id] = question
            scheduler.submit(request)
        if scheduler.has_work():
            take(scheduler.step(take))
            reference.take_if_due()
        else:
            time.sleep(max(0.0, waiting[-1][1].arrival.at_s - (reference.now() - began)))
    end = max(question.end_s or 0.0 for question in questions)
    return Block(Outcome(questions, end - arrivals[0].at_s), began, reference.now())


def _yaml(profile: DeviceProfile) -> str:
    values = {
        name: value
        for name, value in dataclasses.asdict(profile).items()
        if value not in ("", None, {}, []) and (value != 0 or name == "estimated")
    }
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None)


if __name__ == "__main__":
    main()
