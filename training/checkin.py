"""Replaces the embedded checkpoint by a better one: `python -m training.checkin FOLDER`.

Both checkpoints answer the same questions. The new one replaces the old one only if more of its answers are right, over all rows
of the table with equal weight, if no larger share is confidently false, and if no row is clearly worse.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from training.curve import read_curve
from training.results import comparison, is_better, mean_right, share_confident, worse_rows

EMBEDDED = Path(__file__).resolve().parent.parent / "mllama_demo" / "embedded"


def main(argv: list[str] | None = None) -> int:
    """Compares, and replaces if that is an improvement. Returns 0 if the new checkpoint is better, else 1."""
    parser = argparse.ArgumentParser(prog="python -m training.checkin", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of the new checkpoint")
    parser.add_argument("--curve", type=Path, help="curve.jsonl of its run, for the card; without it nothing is replaced")
    parser.add_argument("--cases", type=int, default=100, help="cases of each type and column (default 100)")
    parser.add_argument("--processes", type=int, default=0, help="processes on a CPU; 0 for one per core")
    args = parser.parse_args(argv)
    if not (args.checkpoint / "model.safetensors").is_file():
        parser.error(f"{args.checkpoint} holds no model.safetensors; name the folder of a checkpoint")
    try:
        curve = read_curve(args.curve) if args.curve else None
    except ValueError as error:
        parser.error(f"--curve: {error}")
    # These imports load torch. They stay here so that --help is instant.
    from training.card import card
    from training.evaluate import evaluate

    results = [evaluate(folder, args.cases, processes=args.processes) for folder in (EMBEDDED, args.checkpoint)]
    old, new = (result["figures"] for result in results)
    print(comparison(new, old))
    better = is_better(new, old)
    if worse := worse_rows(new, old):
        print(f"clearly worse: {', '.join(worse)}")
    print(
        f"right: {mean_right(old):.3f} → {mean_right(new):.3f}; confidently false: {share_confident(old):.3f} → "
        f"{share_confident(new):.3f}; the new one is {'better' if better else 'not better, nothing is replaced'}"
    )
    if better and curve is None:
        print("nothing is replaced, because the card needs the curve of the run; give --curve")
    elif better and curve is not None:
        text = card(args.checkpoint, results[1], curve)  # before anything is replaced
        for path in args.checkpoint.iterdir():
            if path.is_file():
                shutil.copyfile(path, EMBEDDED / path.name)
        (EMBEDDED / "README.md").write_text(text, encoding="utf-8")
        print(f"{EMBEDDED} is replaced, with its card; read the card, and the tests that quote answers")
    return 0 if better else 1


if __name__ == "__main__":
    sys.exit(main())
