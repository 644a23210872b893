"""Writes the model card from measured figures: `python -m training.card CHECKPOINT FIGURES.json CURVE.jsonl` prints the card."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mllama_demo.checkpoint.validate import check_checkpoint
from training.curve import read_curve
from training.evaluate import goals, table
from training.kinds import COLOURS, FIGURES, OBJECTS, SCENERY, SHAPES
from training.packages import EMOJI, FONTS, PHOTOS
from training.results import CONFIDENT

_TEMPLATE = Path(__file__).parent / "assets" / "card.md"


def card(checkpoint: Path, result: dict[str, Any], curve: list[dict[str, Any]]) -> str:
    """The text of the card.

    Args:
        checkpoint: Folder of the checkpoint.
        result: What evaluate() returned.
        curve: The lines of the run's curve.jsonl.
    """
    figures = result["figures"]
    info = check_checkpoint(checkpoint)
    minutes = {line["stage"]: line["minutes"] for line in curve}  # of the last line of each stage
    return _TEMPLATE.read_text(encoding="utf-8").format(
        parameters=info.parameters / 1e6,
        megabytes=info.bytes / 1e6,
        figures=", ".join(kind.name for kind in FIGURES),
        hours=sum(minutes.values()) / 60,
        objects=", ".join(kind.name for kind in OBJECTS),
        object_count=len(OBJECTS),
        shapes=", ".join(kind.name for kind in SHAPES),
        colours=", ".join(COLOURS),
        scenery=", ".join(SCENERY),
        packages="\n".join(
            f"| {p.name} {p.version} | {use} | {p.licence} | {p.author} | {p.use} |"
            for use, group in (("drawings", EMOJI), ("fonts", FONTS), ("photographs", PHOTOS))
            for p in group
        ),
        table=table(figures, goals()),
        cases=max(
            column[1] for title, row in figures.items() if ":" not in title and title != CONFIDENT for column in row.values()
        ),
        curve=_curve(curve),
    )


def _curve(lines: list[dict[str, Any]]) -> str:
    """The curve as a Markdown table: each stage is cut into seven parts, and each row has the means over one part."""
    text = [
        "| stage | minutes | learning rate | loss about pictures | patches recognised | letters recognised |",
        "|---|---|---|---|---|---|",
    ]
    for stage in ("see", "talk", "finish"):
        own = [line for line in lines if line["stage"] == stage]
        many = 7
        for index in range(many):
            part = own[index * len(own) // many : (index + 1) * len(own) // many]
            if not part:
                continue
            text.append(
                f"| {stage} | {part[-1]['minutes']:.0f} | {part[-1]['rate']:.4f} | {_mean(part, 'about_picture')} "
                f"| {_mean(part, 'kind')} | {_mean(part, 'character')} |"
            )
    return "\n".join(text)


def _mean(lines: list[dict[str, Any]], name: str) -> str:
    values = [line[name] for line in lines if name in line]
    return f"{sum(values) / len(values):.2f}" if values else ""


def main(argv: list[str] | None = None) -> int:
    """Prints the card. Returns the exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m training.card", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("figures", type=Path)
    parser.add_argument("curve", type=Path)
    args = parser.parse_args(argv)
    try:
        curve = read_curve(args.curve)
    except ValueError as error:
        parser.error(str(error))
    print(card(args.checkpoint, json.loads(args.figures.read_text()), curve), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
