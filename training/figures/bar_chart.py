"""A bar chart with two to six bars, each of another colour and height.

Its text has the bars from left to right, each with a height of 1 to 10: "red:7 blue:3".
"""

from __future__ import annotations

import random
import re

import numpy as np
from PIL import Image, ImageDraw

from training.figures._figure import Figure, FontOf, Question
from training.kinds import COLOURS, NUMBERS

_TINTS = [name for name in COLOURS if name not in ("white", "gray")]
_HIGHEST = 10
# Where the bars stand, as fractions of the figure.
_LEFT, _RIGHT, _TOP, _BASE = 0.12, 0.96, 0.08, 0.9
_BAR_SHARE = 0.68  # of the distance between two bars


def _bars(text: str) -> list[tuple[str, int]]:
    """The colours and heights, from left to right."""
    return [(part.split(":")[0], int(part.split(":")[1])) for part in text.split()]


def _sample(rng: random.Random) -> str:
    many = rng.randint(2, 6)
    # The highest and the lowest differ from all others by two steps or more, so that nobody has to measure.
    heights = rng.sample(range(3, _HIGHEST - 1), many) if many <= 6 else []
    heights[heights.index(max(heights))] = _HIGHEST
    heights[heights.index(min(heights))] = 1
    return " ".join(f"{tint}:{height}" for tint, height in zip(rng.sample(_TINTS, many), heights, strict=True))


def _boxes(text: str) -> list[tuple[tuple[float, float, float, float], str]]:
    bars = _bars(text)
    step = (_RIGHT - _LEFT) / len(bars)
    found = []
    for index, (tint, height) in enumerate(bars):
        left = _LEFT + step * (index + (1 - _BAR_SHARE) / 2)
        found.append(((left, _BASE - (_BASE - _TOP) * height / _HIGHEST, left + step * _BAR_SHARE, _BASE), tint))
    return found


def _draw(text: str, width: int, height: int, noise: np.random.Generator, font_of: FontOf) -> Image.Image:
    paper = 255 - int(noise.integers(0, 14))
    image = Image.new("RGBA", (width, height), (paper, paper, paper, 255))
    draw = ImageDraw.Draw(image)
    ink = tuple(int(v) for v in noise.integers(20, 110, 1).repeat(3))
    thick = max(1, round(width / 70))
    if noise.random() < 0.4:
        for line in range(1, 5):
            y = (_BASE - (_BASE - _TOP) * line / 4) * height
            draw.line((_LEFT * width, y, _RIGHT * width, y), fill=(200, 200, 200))
    for (left, top, right, bottom), tint in _boxes(text):
        fill = tuple(int(np.clip(v + noise.integers(-14, 15), 0, 255)) for v in COLOURS[tint])
        draw.rectangle((left * width, top * height, right * width, bottom * height), fill=fill)
    draw.line((_LEFT * width, _TOP * height * 0.6, _LEFT * width, _BASE * height), fill=ink, width=thick)
    draw.line((_LEFT * width, _BASE * height, _RIGHT * width, _BASE * height), fill=ink, width=thick)
    if noise.random() < 0.3:
        draw.rectangle((0, 0, width - 1, height - 1), outline=ink)
    return image


def _extreme(word: str, sign: int) -> Question:
    def answer(rng: random.Random, text: str) -> tuple[str, str]:
        tint = max(_bars(text), key=lambda bar: sign * bar[1])[0]
        forms = ("The {} bar.", "The {} bar is the {}.", "{} is the {}.", "It is the {} bar.")
        return rng.choice(forms).format(tint, word).capitalize(), tint

    phrasings = (
        f"Which bar is {word}?",
        f"Which bar is the {word}?",
        f"Which color has the {word} bar?",
        f"What color is the {word} bar?",
        f"What is the {word} bar?",
        f"Name the {word} bar.",
        f"Tell me which bar is the {word}.",
        f"Look at the chart: which bar is {word}?",
        f"Find the {word} bar.",
        f"Which of the bars is {word}?",
        f"In this chart, which bar is the {word}?",
        f"Can you tell me the color of the {word} bar?",
    )
    return Question(phrasings, answer, _names_only)


def _names_only(gold: str, reply: str) -> bool:
    """Whether the reply names the colour and no other."""
    words = set(re.findall(r"[a-z]+", reply.lower().replace("grey", "gray")))
    return words & set(COLOURS) == {gold}


def _how_many(rng: random.Random, text: str) -> tuple[str, int]:
    many = len(_bars(text))
    forms = ("There are {} bars.", "{} bars.", "The chart has {} bars.", "{}.", "I count {} bars.")
    answer = rng.choice(forms).format(NUMBERS[many])
    return answer[0].upper() + answer[1:], many


def _counts(gold: int, reply: str) -> bool:
    found = [NUMBERS.index(word) for word in re.findall(r"[a-z]+", reply.lower()) if word in NUMBERS]
    return (found or [int(digits) for digits in re.findall(r"\d+", reply)]) == [gold]


FIGURE = Figure(
    _sample,
    _draw,
    _boxes,
    lambda text: {"count": len(_bars(text)) - 1},
    {
        "highest": _extreme("highest", 1),
        "lowest": _extreme("lowest", -1),
        "bars": Question(
            (
                "How many bars are there?",
                "How many bars does the chart have?",
                "How many bars do you see?",
                "How many bars are in the chart?",
                "Count the bars.",
                "Can you count the bars?",
                "Tell me the number of bars.",
                "How many bars does this chart show?",
                "What is the number of bars in the chart?",
                "How many bars can you see in this image?",
                "What number of bars is drawn?",
                "Say how many bars the chart has.",
            ),
            _how_many,
            _counts,
            colourless=True,
        ),
    },
)
