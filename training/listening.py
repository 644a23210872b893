"""What a word of the conversation refers to in the picture: labels that teach the text layers to look things up.

An answer is one or two words that the picture decides, so conversations alone teach slowly where to look. Here every mention of a
thing, in questions as in answers, has labels of its own – is it there, how many, where, in which colour – which heads on the
cross-attention layers must tell at the mention's last token. The heads are thrown away after training.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import numpy as np

from training.kinds import BY_NAME, COLOURS, KINDS, MAX_COUNT, REGIONS, TEXT
from training.labels import IGNORE
from training.scenes import Scene, Thing
from training.talk.phrases import groups, noun, with_article

BINS = 8
# The heads and how many classes each has.
LOOKUPS = {
    "there": 2,
    "count": MAX_COUNT + 1,
    "region": len(REGIONS),
    "colour": len(COLOURS),
    "column": BINS,  # of the centre
    "row": BINS,
}
_REGION = {cell: index for index, cell in enumerate(REGIONS)}
_COLOUR = {colour: index for index, colour in enumerate(COLOURS)}
_NAMED = {name: kind.name for kind in KINDS for name in (kind.name, kind.many)} | {"text": TEXT}
_MENTION = re.compile(
    rf"\b(?:({'|'.join(COLOURS)}) )?({'|'.join(sorted(_NAMED, key=len, reverse=True))})\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Mention:
    """A thing that a text speaks of. end: index of the character after it."""

    end: int
    kind: str
    colour: str | None


def mentions(text: str) -> list[Mention]:
    """Every mention of a kind in a text, with the colour before it. A word in capitals is written in the picture: no mention."""
    return [
        Mention(hit.end(), _NAMED[hit[2].lower()], hit[1].lower() if hit[1] else None)
        for hit in _MENTION.finditer(text)
        if not hit[2].isupper()
    ]


def look_up(scene: Scene, kind: str, colour: str | None) -> np.ndarray:
    """int16 [lookups]: what the picture says of a kind, in the order of LOOKUPS; IGNORE where it says nothing."""
    found = np.full(len(LOOKUPS), IGNORE, np.int16)
    if scene.foreign or (colour and (scene.grey or (kind in BY_NAME and BY_NAME[kind].icons))):
        return found  # a drawing has no one colour
    things = [thing for thing in scene.things if thing.kind == kind and colour in (None, thing.colour)]
    found[0] = bool(things)
    found[1] = min(len(things), MAX_COUNT)
    if len(things) == 1:
        found[2:] = _of_one(things[0])
    return found


def _of_one(thing: Thing) -> list[int]:
    column, row = (min(BINS - 1, int(value * BINS)) for value in thing.centre)
    region = IGNORE if thing.cell is None else _REGION[thing.cell]
    return [region, IGNORE if thing.colour is None else _COLOUR[thing.colour], column, row]


def word_list(rng: random.Random, scene: Scene, many: int) -> str:
    """Names of things in random order, about half of them in the picture: many lookups in few tokens."""
    present = groups(scene)
    tints = {group.colour for group in present if group.colour}
    words = []
    for _ in range(many):
        known = [group for group in present if group.kind in BY_NAME]
        if known and rng.random() < 0.5:
            group = rng.choice(known)
            kind, colour = group.kind, group.colour
        else:
            kind = rng.choice(KINDS).name
            colour = rng.choice(sorted(tints) or list(COLOURS)) if not BY_NAME[kind].icons and not scene.grey else None
        colour = colour if rng.random() < 0.5 else None
        form = rng.random()
        name = noun(kind, colour, many=form < 0.3)
        words.append(with_article(name) if form > 0.75 else f"the {name}" if form > 0.6 else name)
    return ", ".join(words)
