"""Random scenes of every kind of picture, for training and evaluation.

Held out from training for the evaluation: an eighth of all pairs of kinds, one drawing style of each kind (drawings.py), two font
families (drawings.py), a tenth of all words (words.py), and a fifth of the drawings of unknown things.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from training.figures import FIGURES
from training.kinds import BY_NAME, COLOURS, MAX_COUNT, OBJECTS, SCENERY, SHAPES, UNKNOWN_ICONS, UNKNOWNS, Kind
from training.sampling_text import text_thing
from training.scenes import Box, ForeignKind, Look, Scene, Split, Thing, held_out_pair, in_grey

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
MIRRORED, TURNED = 0.1, 0.15  # shares of things that are drawn mirrored, and turned by up to 12 degrees
OUTLINED, ONE_COLOUR = 0.12, 0.1  # shares of drawings that are drawn as an outline, and in one colour
GREY = 0.15  # share of grey pictures
# What a picture is about, with the share of such pictures. "crowd" is not among them: see sample_scene.
SHARES = {
    "one": 0.16,
    "several": 0.26,
    "count": 0.14,
    "text": 0.22,
    "figure": 0.07,
    "unknown": 0.075,
    "foreign": 0.06,
    "blank": 0.015,
}
_FOREIGN: dict[ForeignKind, float] = {"noise": 0.1, "texture": 0.2, "photo": 0.57, "screen": 0.13}
_UNKNOWN_SHARES = [12.0, *(len(icons) ** 0.5 for icons in UNKNOWN_ICONS.values())]


def sample_scene(rng: random.Random, split: Split = "train", want: str = "") -> Scene:
    """Draws a random scene.

    Args:
        want: A key of SHARES; empty for a random one. "crowd" gives up to 13 things, which trains the vision layers faster but is
            too much for a conversation.
    """
    width, height = _sample_size(rng)
    seed = rng.randrange(2**31)
    want = want or rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
    if want == "foreign":
        kind = rng.choices(tuple(_FOREIGN), tuple(_FOREIGN.values()))[0]
        return Scene((), "gray", width, height, seed, foreign=kind, split=split)
    background = _sample_background(rng)
    if want == "blank":
        return Scene((), rng.choice(list(COLOURS)), width, height, seed, split=split)
    if want == "crowd":
        things = _sample_crowd(rng, width, height, background, split)
    elif want == "text":
        things = _sample_text(rng, width, height, background, split)
    elif want == "figure":
        if max(width, height) <= 84:
            width, height = 2 * width, 2 * height
        things = _sample_figure(rng, width, height, background)
    else:
        things = _sample_things(rng, width, height, background, split, want)
    things = sorted(things, key=lambda thing: thing.centre)
    scene = Scene(tuple(things), background, width, height, seed, split=split)
    return in_grey(scene) if rng.random() < GREY else scene


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


def colour_for(rng: random.Random, background: str) -> str:
    hidden = {background, *_HIDDEN_ON.get(background, ())}
    return rng.choice([colour for colour in COLOURS if colour not in hidden])


def _pick_kind(rng: random.Random) -> Kind:
    return rng.choice(OBJECTS) if rng.random() < 0.72 else rng.choice(SHAPES)


# --- things --------------------------------------------------------------------------------------------------------------


def _thing(rng: random.Random, kind: str, colour: str | None, box: Box, style: int = -1, look: Look | None = None) -> Thing:
    """A thing with a random drawing, look and angle. style, look: given for the things of a kind that shall be drawn alike."""
    if style < 0:
        style = rng.randrange(2**20)
    look = look or _sample_look(rng)
    # A flag or a sign of the hand that is mirrored is another one.
    turns = kind in BY_NAME and BY_NAME[kind].category not in ("flag", "hand", "figure")
    angle = rng.uniform(-12, 12) if rng.random() < TURNED else 0.0
    mirrored = turns and rng.random() < MIRRORED
    if kind in BY_NAME and BY_NAME[kind].category == "flag":
        look = "colours"  # nothing else tells flags apart
    return Thing(kind, colour, box, style=style, mirrored=mirrored, angle=angle, look=look)


def _sample_look(rng: random.Random) -> Look:
    draw = rng.random()
    return "outline" if draw < OUTLINED else "one colour" if draw < OUTLINED + ONE_COLOUR else "colours"


def _pick_unknown(rng: random.Random) -> str:
    return rng.choices(UNKNOWNS, _UNKNOWN_SHARES)[0]


def _colour_of(rng: random.Random, name: str, background: str) -> str | None:
    return colour_for(rng, background) if name in BY_NAME and BY_NAME[name].is_shape else None


# Least and largest side of a thing, as a share of the picture's shorter side, by the number of things.
_SIDES = {1: (0.3, 0.8), 2: (0.28, 0.48), 3: (0.26, 0.4), 4: (0.24, 0.36), 5: (0.22, 0.32)}


def _sample_things(rng: random.Random, width: int, height: int, background: str, split: Split, want: str) -> list[Thing]:
    small = max(width, height) <= 84
    if want == "count" and not small:
        kind = _pick_kind(rng)
        names = [kind.name] * rng.choices(range(1, MAX_COUNT + 1), (0.06, 0.2, 0.2, 0.2, 0.17, 0.17))[0]
        if len(names) < MAX_COUNT and rng.random() < 0.35:
            names += _distinct(rng, rng.choice((1, 1, 2)) if len(names) < 4 else 1, split, names[:1])[1:]
    elif want == "unknown":
        unknown = _pick_unknown(rng)
        names = [unknown] if small or rng.random() < 0.6 else [unknown, _pick_kind(rng).name]
    else:
        many = 1 if small or want in ("one", "count") else rng.choices((2, 3, 4, 5), (0.42, 0.33, 0.15, 0.1))[0]
        names = _distinct(rng, many, split)
    low, high = _SIDES.get(len(names), (0.22, 0.3))
    colours = {name: _colour_of(rng, name, background) for name in names}
    boxes: list[Box] = []
    things: list[Thing] = []
    style, look = rng.randrange(2**20), _sample_look(rng)  # of the things that are alike
    for name in names:
        box = _place(rng, width, height, rng.uniform(low, high), boxes)
        if box is None:
            continue
        boxes.append(box)
        alike = names.count(name) > 1
        things.append(_thing(rng, name, colours[name], box, style if alike else -1, look if alike else None))
    return things


def _sample_crowd(rng: random.Random, width: int, height: int, background: str, split: Split) -> list[Thing]:
    things: list[Thing] = []
    if rng.random() < 0.6:
        things.append(text_thing(rng, width, height, colour_for(rng, background), split))
    elif rng.random() < 0.2:
        things += _sample_figure(rng, width, height, background, 0.4, 0.6)[:1]
    for _ in range(rng.randint(4, 12)):
        name = _pick_unknown(rng) if rng.random() < 0.08 else _pick_kind(rng).name
        box = _place(rng, width, height, rng.uniform(0.22, 0.42), [thing.box for thing in things])
        if box is not None:
            things.append(_thing(rng, name, _colour_of(rng, name, background), box))
    return things


def _sample_figure(
    rng: random.Random, width: int, height: int, background: str, low: float = 0.55, high: float = 0.95
) -> list[Thing]:
    """A figure, sometimes with a thing beside it. low, high: its least and largest side, as a share of the shorter side."""
    name = rng.choice(tuple(FIGURES))
    alone = rng.random() < 0.75
    box = _place(rng, width, height, rng.uniform(low, high if alone else 0.7), [])
    assert box is not None
    things = [Thing(name, None, box, text=FIGURES[name].sample(rng), style=rng.randrange(2**20))]
    place = None if alone else _place(rng, width, height, rng.uniform(0.22, 0.32), [box])
    if place is not None:
        kind = _pick_kind(rng).name
        things.append(_thing(rng, kind, _colour_of(rng, kind, background), place))
    return things


def _sample_text(rng: random.Random, width: int, height: int, background: str, split: Split) -> list[Thing]:
    things = [text_thing(rng, width, height, colour_for(rng, background), split)]
    if rng.random() < 0.25 and max(width, height) > 84:
        place = _place(rng, width, height, rng.uniform(0.25, 0.4), [things[0].box])
        if place is not None:
            kind = _pick_kind(rng).name
            things.append(_thing(rng, kind, _colour_of(rng, kind, background), place))
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
