"""Random scenes: which things a picture shows, and where. A scene holds plain values; render.py draws its pixels.

Held out from training for the evaluation: an eighth of all pairs of kinds, one drawing style of each kind (drawings.py), two font
families (drawings.py), a tenth of all words (words.py), and a fifth of the drawings of unknown things.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from training.kinds import (
    BY_NAME,
    CHARACTERS,
    COLOURS,
    MAX_COUNT,
    MAX_DIGITS,
    OBJECTS,
    REGIONS,
    SCENERY,
    SHAPES,
    TEXT,
    UNKNOWN,
    Kind,
)
from training.words import word

Split = Literal["train", "test"]
ForeignKind = Literal["noise", "texture", "photo", "screen"]
Box = tuple[float, float, float, float]

# Colours that are hard to see on a background, besides the background's own colour.
_HIDDEN_ON: dict[str, tuple[str, ...]] = {
    "a green meadow": ("green",),
    "a sandy beach": ("yellow", "orange", "white"),
    "a night sky": ("black", "blue", "purple"),
    "snow": ("white", "gray"),
    "a wooden table": ("brown", "orange"),
    "a brick wall": ("red", "brown", "orange"),
    "the sea": ("blue",),
    "a blurry background": ("gray",),
    "gray": ("white", "black"),
    "red": ("pink", "orange"),
    "orange": ("yellow", "red"),
    "purple": ("blue", "pink"),
    "blue": ("purple", "black"),
    "black": ("blue", "purple", "brown"),
    "brown": ("black", "purple"),
    "yellow": ("white", "orange"),
    "white": ("yellow",),
}
# Fractions of the picture: the distance of a centre to the border between two of the nine regions, and the offset of two centres
# along an axis. Below these margins people would disagree on an answer, so that nothing is asked.
REGION_MARGIN = 0.045
SIDE_MARGIN = 0.15
MIRRORED, TURNED = 0.1, 0.15  # shares of things that are drawn mirrored, and turned by up to 12 degrees


@dataclass(frozen=True)
class Thing:
    """One thing in a picture.

    Attributes:
        kind: A name in kinds.py, TEXT or UNKNOWN.
        colour: Colour of a shape or text; None for drawings and in grey pictures.
        box: Left, top, right, bottom, as fractions of the picture.
        text: The characters of a TEXT.
        style: Number of the drawing or font; render.py takes it modulo the number of drawings or fonts.
        angle: Rotation in degrees.
    """

    kind: str
    colour: str | None
    box: Box
    text: str = ""
    style: int = 0
    mirrored: bool = False
    angle: float = 0.0

    @property
    def centre(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def region(self) -> str | None:
        """The region of the centre, a value of REGIONS; None within REGION_MARGIN of a border."""
        cell = self.cell
        return None if cell is None else REGIONS[cell]

    @property
    def cell(self) -> tuple[int, int] | None:
        """Column and row of the centre in the 3 × 3 grid; None within REGION_MARGIN of a border."""
        found = []
        for value in self.centre:
            if min(abs(value - 1 / 3), abs(value - 2 / 3)) < REGION_MARGIN:
                return None
            found.append(min(2, int(value * 3)))
        return found[0], found[1]


@dataclass(frozen=True)
class Scene:
    """Everything that decides the pixels of a picture.

    Attributes:
        things: Sorted from left to right.
        background: A name in COLOURS or SCENERY.
        width: In pixels.
        height: In pixels.
        seed: Seed of the randomness in the pixels.
        foreign: Set if the picture shows nothing that the model can name (foreign.py).
        grey: Whether the picture has no colours.
        split: Which drawings, fonts and phrasings the picture and its questions may use.
    """

    things: tuple[Thing, ...]
    background: str
    width: int
    height: int
    seed: int
    foreign: ForeignKind | None = None
    grey: bool = False
    split: Split = "train"

    @property
    def plain(self) -> bool:
        return self.background in COLOURS

    def count(self, kind: str) -> int:
        return sum(thing.kind == kind for thing in self.things)


def held_out_pair(first: str, second: str) -> bool:
    """True for an eighth of all pairs of kinds. Training never shows the two kinds of such a pair together."""
    return zlib.crc32("|".join(sorted((first, second))).encode()) % 8 == 0


def sample_scene(rng: random.Random, split: Split = "train", want: str = "") -> Scene:
    """Draws a random scene.

    Args:
        want: "one", "several", "count", "text", "blank", "unknown", "foreign", or empty for a random one of these. "crowd" gives
            up to 13 things, which trains the vision layers faster but is too much for a conversation.
    """
    width, height = _sample_size(rng)
    seed = rng.randrange(2**31)
    want = (
        want
        or rng.choices(
            ("one", "several", "count", "text", "blank", "unknown", "foreign"), (0.17, 0.26, 0.18, 0.24, 0.015, 0.065, 0.07)
        )[0]
    )
    if want == "foreign":
        kind = rng.choices(("noise", "texture", "photo", "screen"), (0.12, 0.23, 0.5, 0.15))[0]
        return Scene((), "gray", width, height, seed, foreign=kind, split=split)
    background = _sample_background(rng)
    if want == "blank":
        return Scene((), rng.choice(list(COLOURS)), width, height, seed, split=split)
    if want == "crowd":
        things = _sample_crowd(rng, width, height, background, split)
    elif want == "text":
        things = _sample_text(rng, width, height, background, split)
    else:
        things = _sample_things(rng, width, height, background, split, want)
    things = sorted(things, key=lambda thing: thing.centre)
    scene = Scene(tuple(things), background, width, height, seed, split=split)
    return in_grey(scene) if rng.random() < 0.1 else scene


def in_grey(scene: Scene) -> Scene:
    """The scene as a grey picture, whose things have no colour."""
    things = tuple(replace(thing, colour=None) for thing in scene.things)
    background = scene.background
    if scene.plain and background not in ("white", "black"):
        background = "gray"
    return replace(scene, things=things, background=background, grey=True)


# --- the picture ---------------------------------------------------------------------------------------------------------


def _sample_size(rng: random.Random) -> tuple[int, int]:
    """Width and height in pixels, with ratios from 1:4 to 4:1, mostly near square. A few pictures are at most one tile large."""
    if rng.random() < 0.05:
        return rng.randint(56, 84), rng.randint(56, 84)
    long_side = rng.randint(150, 1200)
    ratio = rng.choices((1.0, rng.uniform(1.05, 1.5), rng.uniform(1.5, 2.0), rng.uniform(2.0, 4.0)), (0.45, 0.33, 0.1, 0.12))[0]
    short_side = max(64, round(long_side / ratio))
    long_side = min(long_side, 4 * short_side)
    return (long_side, short_side) if rng.random() < 0.6 else (short_side, long_side)


def _sample_background(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.33:
        return "white"
    return rng.choice(list(COLOURS)) if draw < 0.66 else rng.choice(list(SCENERY))


def _colour_for(rng: random.Random, background: str) -> str:
    hidden = {background, *_HIDDEN_ON.get(background, ())}
    return rng.choice([colour for colour in COLOURS if colour not in hidden])


def _pick_kind(rng: random.Random) -> Kind:
    return rng.choice(OBJECTS) if rng.random() < 0.72 else rng.choice(SHAPES)


# --- things --------------------------------------------------------------------------------------------------------------


def _sample_things(rng: random.Random, width: int, height: int, background: str, split: Split, want: str) -> list[Thing]:
    small = max(width, height) <= 84
    if want == "count" and not small:
        kind = _pick_kind(rng)
        names = [kind.name] * rng.choices(range(1, MAX_COUNT + 1), (0.06, 0.2, 0.2, 0.2, 0.17, 0.17))[0]
        if len(names) < MAX_COUNT and rng.random() < 0.35:
            names += _distinct(rng, rng.choice((1, 1, 2)) if len(names) < 4 else 1, split, names[:1])[1:]
    elif want == "unknown":
        names = [UNKNOWN] if small or rng.random() < 0.6 else [UNKNOWN, _pick_kind(rng).name]
    else:
        many = 1 if small or want in ("one", "count") else rng.choices((2, 3, 4), (0.5, 0.4, 0.1))[0]
        names = _distinct(rng, many, split)
    low, high = {1: (0.3, 0.65), 2: (0.28, 0.48), 3: (0.26, 0.4), 4: (0.24, 0.34)}.get(len(names), (0.22, 0.3))
    colours = {name: _colour_for(rng, background) if name in BY_NAME and not BY_NAME[name].icons else None for name in names}
    boxes: list[Box] = []
    things: list[Thing] = []
    one_style = rng.randrange(2**20)
    for name in names:
        share = rng.uniform(low, high)
        box = _place(rng, width, height, share, boxes)
        if box is None:
            continue
        boxes.append(box)
        angle = rng.uniform(-12, 12) if rng.random() < TURNED else 0.0
        style = one_style if names.count(name) > 1 else rng.randrange(2**20)
        things.append(Thing(name, colours[name], box, style=style, mirrored=rng.random() < MIRRORED, angle=angle))
    return things


def _sample_crowd(rng: random.Random, width: int, height: int, background: str, split: Split) -> list[Thing]:
    things = _sample_text(rng, width, height, background, split)[:1] if rng.random() < 0.6 else []
    names = [_pick_kind(rng).name for _ in range(rng.randint(4, 12))]
    for name in names:
        box = _place(rng, width, height, rng.uniform(0.22, 0.42), [thing.box for thing in things])
        if box is not None:
            colour = None if BY_NAME[name].icons else _colour_for(rng, background)
            angle = rng.uniform(-12, 12) if rng.random() < TURNED else 0.0
            things.append(Thing(name, colour, box, style=rng.randrange(2**20), mirrored=rng.random() < MIRRORED, angle=angle))
    return things


def _distinct(rng: random.Random, count: int, split: Split, start: Sequence[str] = ()) -> list[str]:
    """`start` and up to `count` other kinds. Training scenes get no held-out pair; test scenes get any pair."""
    names = list(start) or [_pick_kind(rng).name]
    total = len(start) + count
    for _ in range(60):
        if len(names) >= total:
            break
        name = _pick_kind(rng).name
        if name not in names and (split == "test" or not any(held_out_pair(name, other) for other in names)):
            names.append(name)
    return names


def _place(rng: random.Random, width: int, height: int, share: float, boxes: Sequence[Box]) -> Box | None:
    """A square box that overlaps no other; None after 40 attempts. share: side as a share of the picture's shorter side.

    The nine regions are equally likely, as far as the box fits into the picture there.
    """
    side = share * min(width, height)
    half_width, half_height = side / width / 2, side / height / 2
    for _ in range(40):
        column, row = rng.randrange(3), rng.randrange(3)
        x = (column + rng.uniform(0.1, 0.9)) / 3
        y = (row + rng.uniform(0.1, 0.9)) / 3
        x = min(max(x, half_width), 1 - half_width)
        y = min(max(y, half_height), 1 - half_height)
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        if not any(_overlap(box, other) for other in boxes):
            return box
    return None


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# --- text ----------------------------------------------------------------------------------------------------------------

# The model cannot tell apart letters narrower than this, in pixels of the resized picture.
MIN_LETTER_PIXELS = 15.0
SEEN_SIDE = 168  # least length of the longer side of a resized picture, in pixels (2 tiles of 84)


def _sample_text(rng: random.Random, width: int, height: int, background: str, split: Split) -> list[Thing]:
    seen_width = SEEN_SIDE * min(1.0, width / height) if max(width, height) > 84 else min(84, width)
    longest = max(1, int(0.95 * seen_width / MIN_LETTER_PIXELS))
    if rng.random() < 0.33:
        digits = rng.randint(1, min(longest, MAX_DIGITS))
        text = str(rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1))
    else:
        text = word(rng, longest, split)
    assert all(character in CHARACTERS for character in text)
    # `share` is the text's width as a share of the picture's width. A letter is about 0.7 as wide as it is high.
    least = max(0.3, len(text) * MIN_LETTER_PIXELS / seen_width)
    most = min(0.95, len(text) * 0.7 * 0.6 * height / width)
    share = rng.uniform(min(least, 0.95), max(least, most))
    tall = min(0.9, share * width / len(text) / 0.7 / height)
    half_width, half_height = share / 2, tall / 2
    x = rng.uniform(half_width, 1 - half_width) if half_width < 0.5 else 0.5
    y = rng.uniform(half_height, 1 - half_height)
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    things = [Thing(TEXT, _colour_for(rng, background), box, text=text, style=rng.randrange(2**20))]
    if rng.random() < 0.25 and max(width, height) > 84:
        kind = _pick_kind(rng)
        place = _place(rng, width, height, rng.uniform(0.25, 0.4), [box])
        if place is not None:
            colour = None if kind.icons else _colour_for(rng, background)
            things.append(Thing(kind.name, colour, place, style=rng.randrange(2**20), mirrored=rng.random() < MIRRORED))
    return things
