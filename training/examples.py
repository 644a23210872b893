"""Draws the example pictures of the chat page: `python -m training.examples` writes them to EXAMPLES_FOLDER."""

from __future__ import annotations

import sys

from mllama_demo.images.examples import EXAMPLES_FOLDER
from training.drawings import load_bank
from training.kinds import TEXT
from training.render import render
from training.scenes import Box, Scene, Thing


def _at(x: float, y: float, size: float, width: int = 640, height: int = 480) -> Box:
    """A square box around the point (x, y). x, y: fractions of the picture. size: side as a fraction of the height."""
    half_width, half_height = size * height / width / 2, size / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def _things(kind: str, *places: Box, colour: str | None = None, style: int = 0) -> list[Thing]:
    return [Thing(kind, colour, place, style=style) for place in places]


# All drawings are of Noto Emoji, which has the licence of this project (Apache-2.0).
EXAMPLES: dict[str, Scene] = {
    "dog.png": Scene(tuple(_things("dog", _at(0.5, 0.55, 0.6))), "a green meadow", 640, 480, 3),
    "shapes.png": Scene(
        (
            *_things("star", _at(0.18, 0.3, 0.34), colour="green"),
            *_things("circle", _at(0.8, 0.3, 0.34), colour="red"),
            *_things("square", _at(0.5, 0.72, 0.34), colour="blue"),
        ),
        "white",
        640,
        480,
        1,
    ),
    "apples.png": Scene(
        tuple(_things("apple", _at(0.18, 0.25, 0.28), _at(0.5, 0.3, 0.28), _at(0.8, 0.25, 0.28), _at(0.33, 0.75, 0.28), style=1)),
        "a wooden table",
        640,
        480,
        7,
    ),
    "stop.png": Scene((Thing(TEXT, "white", (0.14, 0.34, 0.86, 0.66), text="STOP", style=8),), "red", 640, 480, 9),
    "beach.png": Scene(
        (*_things("umbrella", _at(0.2, 0.55, 0.45), style=1), *_things("penguin", _at(0.75, 0.55, 0.45))),
        "a sandy beach",
        640,
        480,
        11,
    ),
}


def main() -> int:
    """Writes all example pictures. Returns the exit code 0."""
    bank = load_bank()
    for name, scene in EXAMPLES.items():
        render(scene, bank).quantize(128).save(EXAMPLES_FOLDER / name, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
