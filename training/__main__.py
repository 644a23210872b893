"""Trains a checkpoint from scratch and evaluates it. `make train` runs this command."""

from __future__ import annotations

import argparse
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

from training.packages import CACHE, PackageError
from training.plan import DEFAULT, PlanError, read_plan


def default_state() -> Path:
    """The folder of the run, outside of the repository: it holds hours of work, which `git clean` shall not delete."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "mllama-demo" / "training"


def main(argv: list[str] | None = None) -> int:
    """Runs every step that is not done yet. Returns 0, or 2 after printing what could not be fetched or read."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--config", type=Path, default=DEFAULT, help="the configuration (default training/config.yaml)")
    parser.add_argument("--minutes", type=float, help="minutes of training, all stages together, instead of those configured")
    parser.add_argument(
        "--state", type=Path, default=default_state(), help=f"folder of the run, which is resumed (default {default_state()})"
    )
    parser.add_argument("--out", type=Path, default=CACHE / "checkpoint", help="folder that the checkpoint is written to")
    parser.add_argument(
        "--start", type=Path, help="checkpoint folder whose weights a new run starts from, such as mllama_demo/embedded"
    )
    parser.add_argument(
        "--finish", type=float, default=0.0, help="finish a copy of the run in so many minutes, and leave it as it is"
    )
    parser.add_argument(
        "--pause-after", type=float, help="save the state and stop after so many minutes of the clock; the next call goes on"
    )
    parser.add_argument("--processes", type=int, default=0, help="processes on a CPU, at most batch.cpu; 0 for one per core")
    parser.add_argument(
        "--cases", type=int, default=100, help="evaluation cases of each type; 0 skips the evaluation (default 100)"
    )
    args = parser.parse_args(argv)
    for name, value in (("--minutes", args.minutes), ("--finish", args.finish or None), ("--pause-after", args.pause_after)):
        if value is not None and not 0 < value <= 100_000:
            parser.error(f"{name} must be more than 0 and at most 100000")
    if args.processes < 0:
        parser.error("--processes must be 0 or more")
    if args.start and not (args.start / "model.safetensors").is_file():
        parser.error(f"--start must name a checkpoint folder; {args.start} holds no model.safetensors")
    if args.finish and not (args.state / "state.pt").is_file():
        parser.error(f"--finish needs a run; {args.state} holds no state.pt")
    try:
        _run(args)
    except (PackageError, PlanError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _run(args: argparse.Namespace) -> None:
    plan = read_plan(args.config)
    processes = args.processes or min(os.cpu_count() or 1, plan.batch["cpu"])
    if processes > plan.batch["cpu"]:
        raise PlanError(f"--processes must be at most batch.cpu of {args.config}, which is {plan.batch['cpu']}, not {processes}.")
    if args.minutes:
        plan = replace(plan, minutes=args.minutes)
    # These imports load torch. They stay here so that --help is instant.
    from training.drawings import load_bank
    from training.team import work_together
    from training.tokenizer import train_tokenizer
    from training.train import STOP_FILE, make_checkpoint

    print("drawings, fonts and photographs", flush=True)
    load_bank()
    args.state.mkdir(parents=True, exist_ok=True)
    # A request to stop that is older than this run. One for another run, of which this one finishes a copy, stays.
    ((args.state / "finish" if args.finish else args.state) / STOP_FILE).unlink(missing_ok=True)
    tokenizer = args.state / "tokenizer.json"
    if not tokenizer.exists():
        print("tokenizer", flush=True)
        train_tokenizer(plan.vocabulary).save(str(tokenizer))
    minutes = args.finish or plan.minutes
    print(f"training for {minutes:g} minutes; the state is in {args.state}", flush=True)
    pause = args.pause_after or math.inf
    written = args.out / "model.safetensors"
    before = written.stat().st_mtime_ns if written.exists() else 0
    work_together(make_checkpoint, args.state, args.out, plan, args.start, args.finish, pause, members=processes)
    if not written.exists() or written.stat().st_mtime_ns == before:
        print("paused; the same command goes on", flush=True)
    elif args.cases:
        from training.evaluate import evaluate

        print("evaluation", flush=True)
        evaluate(args.out, args.cases, processes=args.processes)


if __name__ == "__main__":
    sys.exit(main())
