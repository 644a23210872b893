"""Trains a checkpoint from scratch and evaluates it. `make train` runs this command."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from training.packages import CACHE, PackageError


def main(argv: list[str] | None = None) -> int:
    """Runs every step that is not done yet. Returns 0, or 2 after printing why a package could not be fetched."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--minutes", type=float, default=110.0, help="minutes of training, both stages together (default 110)")
    parser.add_argument("--run", type=Path, default=CACHE / "run", help="folder of the run; an unfinished run is resumed")
    parser.add_argument("--out", type=Path, default=CACHE / "checkpoint", help="folder that the checkpoint is written to")
    parser.add_argument(
        "--start", type=Path, help="checkpoint folder whose weights the training starts from, such as mllama_demo/embedded"
    )
    parser.add_argument("--batch", type=int, default=48, help="pictures per step, over all processes (default 48)")
    parser.add_argument("--processes", type=int, default=0, help="processes on a CPU; 0 for one per core")
    parser.add_argument(
        "--cases", type=int, default=100, help="evaluation cases of each type; 0 skips the evaluation (default 100)"
    )
    args = parser.parse_args(argv)
    if not 0 < args.minutes <= 100_000:
        parser.error("--minutes must be more than 0 and at most 100000")
    if args.start and not (args.start / "model.safetensors").is_file():
        parser.error(f"--start must name a checkpoint folder; {args.start} holds no model.safetensors")
    if args.batch < 2:
        parser.error("--batch must be at least 2")
    try:
        _run(args)
    except PackageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _run(args: argparse.Namespace) -> None:
    # These imports load torch. They stay here so that --help is instant.
    from training.drawings import load_bank
    from training.team import work_together
    from training.tokenizer import train_tokenizer
    from training.train import make_checkpoint

    print("drawings, fonts and photographs", flush=True)
    load_bank()
    args.run.mkdir(parents=True, exist_ok=True)
    tokenizer = args.run / "tokenizer.json"
    if not tokenizer.exists():
        print("tokenizer", flush=True)
        if args.start:
            shutil.copyfile(args.start / "tokenizer.json", tokenizer)
        else:
            train_tokenizer().save(str(tokenizer))
    print(f"training for {args.minutes:g} minutes", flush=True)
    work_together(make_checkpoint, args.run, args.out, args.minutes, args.batch, args.start, members=args.processes)
    if args.cases:
        from training.evaluate import evaluate

        print("evaluation", flush=True)
        evaluate(args.out, args.cases)


if __name__ == "__main__":
    sys.exit(main())
