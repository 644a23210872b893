"""The face of a clock with two hands. Its text is the time, in steps of a quarter of an hour: "3:45"."""

from __future__ import annotations

import math
import random
import re

import numpy as np
from PIL import Image, ImageDraw

from training.figures._figure import Figure, FontOf, Question
from training.kinds import COLOURS

_QUARTERS = ("00", "15", "30", "45")
_HOURS = "twelve one two three four five six seven eight nine ten eleven".split()
_SCALE = 3  # drawn so many times larger and scaled down, for smooth edges


def _time(text: str) -> tuple[int, int]:
    hour, minute = text.split(":")
    return int(hour), int(minute)


def _sample(rng: random.Random) -> str:
    return f"{rng.randint(1, 12)}:{rng.choices(_QUARTERS, (4, 2, 3, 2))[0]}"


def _draw(text: str, width: int, height: int, noise: np.random.Generator, font_of: FontOf) -> Image.Image:
    hour, minute = _time(text)
    side = _SCALE * min(width, height)
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)
    dark = noise.random() < 0.15
    paper, ink = ((30, 30, 34), (238, 238, 238)) if dark else ((250, 250, 247), (25, 25, 28))
    tints = list(COLOURS.values())
    rim = tints[int(noise.integers(len(tints)))] if noise.random() < 0.6 else ink
    thick = side * noise.uniform(0.025, 0.06)
    draw.ellipse((0, 0, side - 1, side - 1), fill=rim)
    draw.ellipse((thick, thick, side - 1 - thick, side - 1 - thick), fill=paper)
    middle, reach = side / 2, side / 2 - thick

    def at(turn: float, share: float) -> tuple[float, float]:
        """The point at a turn (1 for the whole circle, from the top, clockwise) and a share of the radius."""
        angle = math.tau * turn
        return middle + share * reach * math.sin(angle), middle - share * reach * math.cos(angle)

    numbered = noise.random() < 0.45
    font = font_of(max(6, round(reach * 0.26)))
    for mark in range(12):
        if numbered:
            draw.text(at(mark / 12, 0.8), str(mark or 12), font=font, fill=ink, anchor="mm")
        else:
            draw.line((*at(mark / 12, 0.82 if mark % 3 == 0 else 0.88), *at(mark / 12, 0.95)), fill=ink, width=round(side / 40))
    hand = tints[int(noise.integers(4))] if noise.random() < 0.25 and not dark else ink
    draw.line((middle, middle, *at((hour + minute / 60) / 12, 0.48)), fill=hand, width=max(2, round(side * 0.06)))
    draw.line((middle, middle, *at(minute / 60, 0.74)), fill=hand, width=max(2, round(side * 0.032)))
    dot = side * 0.035
    draw.ellipse((middle - dot, middle - dot, middle + dot, middle + dot), fill=hand)
    face = image.resize((side // _SCALE, side // _SCALE), Image.Resampling.BOX)
    layer = Image.new("RGBA", (width, height))
    layer.paste(face, ((width - face.width) // 2, (height - face.height) // 2))
    return layer


def _tell(rng: random.Random, text: str) -> tuple[str, str]:
    hour, minute = _time(text)
    forms = ["It is {}.", "{}.", "The clock shows {}.", "The clock says {}."]
    said = text
    if minute == 0 and rng.random() < 0.4:
        said = f"{hour} o'clock"
    return rng.choice(forms).format(said), text


def _says(gold: str, reply: str) -> bool:
    """Whether the reply gives the time, in digits ("3:30", "3 o'clock") or in words ("half past three", "a quarter to four")."""
    hour, minute = _time(gold)
    text = reply.lower().replace("’", "'")
    found = [(int(h), int(m)) for h, m in re.findall(r"\b(\d{1,2})[:.](\d\d)\b", text)]
    for value, name in enumerate(_HOURS):
        text = re.sub(rf"\b{name}\b", str(value or 12), text)
    found += [(int(h), 0) for h in re.findall(r"\b(\d{1,2}) o'clock", text)]
    found += [(int(h), 30) for h in re.findall(r"\bhalf past (\d{1,2})\b", text)]
    found += [(int(h), 15) for h in re.findall(r"\bquarter past (\d{1,2})\b", text)]
    found += [((int(h) - 2) % 12 + 1, 45) for h in re.findall(r"\bquarter to (\d{1,2})\b", text)]
    return set(found) == {(hour, minute)}


FIGURE = Figure(
    _sample,
    _draw,
    lambda text: [],
    lambda text: {"hour": _time(text)[0] % 12, "quarter": _time(text)[1] // 15},
    {
        "time": Question(
            (
                "What time is it?",
                "What time does the clock show?",
                "Which time does the clock show?",
                "Tell me the time.",
                "Read the clock.",
                "What does the clock say?",
                "Can you tell me the time on the clock?",
                "What is the time on this clock?",
                "What time do you see?",
                "How late is it?",
                "Please read the clock for me.",
                "Which time is it on the clock?",
            ),
            _tell,
            _says,
            colourless=True,
        ),
    },
)
