"""Draws the curves of a run: `python -m training.curve STATE/curve.jsonl training/curve.svg`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 900, 420, 60, 50, 20, 190
POINTS = 200  # most points of a curve; more lines are averaged
# The figures that are drawn: the name in curve.jsonl, what it is called in the picture, its colour.
FIGURES = (
    ("kind", "kind of a patch", "#1f5fbf"),
    ("count", "count of a patch", "#1a8a4a"),
    ("character", "letter of a patch", "#c8501e"),
    ("look_up_there", "there or not", "#8a3ab0"),
    ("about_picture", "loss of answers", "#555555"),
)


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a curve.jsonl. Raises ValueError, with one sentence, for a file that is none."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        whole = all(isinstance(line["stage"], str) and line["minutes"] + line["rate"] >= 0 for line in lines)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole or not lines:
        raise ValueError(f"{path} is not the curve.jsonl of a run")
    return lines


def svg(lines: Sequence[dict[str, Any]]) -> str:
    """The curves over the minutes of all stages, as an SVG document. lines: of curve.jsonl."""
    minutes = _minutes(lines)
    total = max(minutes, default=1.0) or 1.0

    def x(minute: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * minute / total

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * min(1.0, max(0.0, share))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tenth in range(0, 11, 2):
        share = tenth / 10
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(share):.1f}" y2="{y(share):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.1f}</text>')
    for quarter in range(5):
        minute = total * quarter / 4
        parts.append(f'<text x="{x(minute):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{minute:.0f}</text>')
    parts.append(f'<text x="{x(total / 2):.1f}" y="{HEIGHT - 10}" text-anchor="middle">minutes of training</text>')
    for stage, minute in _starts(lines, minutes):
        place = f'x1="{x(minute):.1f}" x2="{x(minute):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
        parts.append(f'<line {place} stroke="#999" stroke-dasharray="4"/>')
        parts.append(f'<text x="{x(minute) + 4:.1f}" y="{TOP + 12}" fill="#777">{stage}</text>')
    for index, (name, title, colour) in enumerate(FIGURES):
        points = [(minute, line[name]) for minute, line in zip(minutes, lines, strict=True) if name in line]
        if not points:
            continue
        path = " ".join(f"{x(minute):.1f},{y(value):.1f}" for minute, value in _thinned(points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 20 + 24 * index}" fill="{colour}">{title}: {points[-1][1]:.2f}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _minutes(lines: Sequence[dict[str, Any]]) -> list[float]:
    """The minutes since the start of the first stage; the lines count from the start of their own stage."""
    found: list[float] = []
    before, last = 0.0, None
    for line in lines:
        if last is not None and line["stage"] != last["stage"]:
            before += last["minutes"]
        found.append(before + line["minutes"])
        last = line
    return found


def _starts(lines: Sequence[dict[str, Any]], minutes: Sequence[float]) -> list[tuple[str, float]]:
    """The stages, and the minute of the first line of each."""
    found: dict[str, float] = {}
    for line, minute in zip(lines, minutes, strict=True):
        found.setdefault(line["stage"], minute)
    return list(found.items())


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS points, each the mean of its neighbours."""
    size = -(-len(points) // POINTS)
    groups = [points[index : index + size] for index in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def main(argv: list[str] | None = None) -> int:
    """Writes the picture. Returns the exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m training.curve", description=__doc__)
    parser.add_argument("curve", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args(argv)
    try:
        lines = read_curve(args.curve)
    except ValueError as error:
        parser.error(str(error))
    args.picture.write_text(svg(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
