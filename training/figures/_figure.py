"""What a module of this package provides."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFont

FontOf = Callable[[int], ImageFont.FreeTypeFont]  # from a size in pixels to a font of the scene's split


@dataclass(frozen=True)
class Question:
    """A question about a figure.

    Attributes:
        phrasings: Ways to ask, the most common first; training and test share none but the first (talk/exchange.py, Pool).
        answer: Returns an answer and the gold value for the text of a figure; None if people would disagree.
        right: Whether a reply gives the gold value.
        colourless: Whether it can be asked about a grey picture.
    """

    phrasings: tuple[str, ...]
    answer: Callable[[random.Random, str], tuple[str, Any] | None]
    right: Callable[[Any, str], bool]
    colourless: bool = False


@dataclass(frozen=True)
class Figure:
    """A kind of thing that is drawn by code and holds something to read.

    Attributes:
        sample: Returns the text of a random figure (Thing.text): everything that questions are about.
        draw: Draws (text, width, height, noise, font_of) as an RGBA layer of this size in pixels.
        surfaces: Returns for a text the boxes (left, top, right, bottom, as fractions of the figure) that have one colour, with
            the name of the colour.
        labels: Returns for a text the patch labels of the whole figure, by head (labels.py).
        questions: By name.
    """

    sample: Callable[[random.Random], str]
    draw: Callable[[str, int, int, np.random.Generator, FontOf], Image.Image]
    surfaces: Callable[[str], list[tuple[tuple[float, float, float, float], str]]]
    labels: Callable[[str], Mapping[str, int]]
    questions: Mapping[str, Question]
