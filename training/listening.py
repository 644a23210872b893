"""Labels that say what a mention in a conversation refers to in the picture ("the red star": there, one, at the top, …).

The picture decides only one or two words of an answer, so answers alone train cross-attention slowly. For each mention of a thing
or a place, in questions and answers, extra heads on the cross-attention layers predict these labels at the mention's last token.
The heads are not exported.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from training.kinds import BY_NAME, COLOURS, KINDS, MAX_COUNT, REGIONS, TEXT
from training.labels import IGNORE
from training.scenes import Scene, Thing
from training.talk.phrases import Group, groups, noun, with_article
from training.talk.places import once, side_of, things_at, things_beside
from training.talk.questions import SIDES

BINS = 8
# The heads, and the number of classes of each.
LOOKUPS = {
    "there": 2,
    "count": MAX_COUNT + 1,
    "region": len(REGIONS),
    "colour": len(COLOURS),
    "column": BINS,  # x of the thing's centre
    "row": BINS,  # y of the thing's centre
    "across": 2,  # the thing mentioned before is left or right of this thing
    "down": 2,  # the thing mentioned before is above or below this thing
    "who": len(KINDS) + 2,  # what is at the mentioned side of the thing, or at the mentioned place: a kind, a text, nothing
}
_ONE = tuple(LOOKUPS).index("region")  # the lookups from here on need that exactly one thing is meant
_BESIDE = tuple(LOOKUPS).index("across")
_WHO = tuple(LOOKUPS).index("who")
_REGION = {cell: index for index, cell in enumerate(REGIONS)}
_COLOUR = {colour: index for index, colour in enumerate(COLOURS)}
_KIND = {name: index for index, name in enumerate([*(kind.name for kind in KINDS), TEXT])}
_NOTHING = len(_KIND)
_NAMED = {name.lower(): kind.name for kind in KINDS for name in (kind.name, kind.many)} | {"text": TEXT}
_SIDE = {wording: side for side, wordings in SIDES.items() for wording in wordings} | {side: side for side in SIDES}
_PLACE = {spelling: place for place in REGIONS.values() for spelling in (place, place.replace("center", "centre"))}


def _any_of(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_COLOURED, _NAME = f"(?:({_any_of(COLOURS)}) )?", f"({_any_of(_NAMED)})"
_MENTION = re.compile(
    rf"\b(?:({_any_of(_SIDE)}) )?(?:(?:the|an?) )?{_COLOURED}{_NAME}\b"
    rf"|\b(?:what|which|object|thing)\b[a-z ]*? ({_any_of(_PLACE)})\b(?! of the {_COLOURED}{_NAME}\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Mention:
    """A thing or a place that a text mentions.

    Attributes:
        end: Index of the character after the mention.
        kind: Kind of the thing; empty for a place.
        side: The side in mentions like "left of the dog".
        before: Kind and colour of the previous thing in the same text.
        place: A value of REGIONS; empty for a thing.
    """

    end: int
    kind: str
    colour: str | None = None
    side: str = ""
    before: tuple[str, str | None] | None = None
    place: str = ""


def mentions(text: str) -> list[Mention]:
    """All mentions in a text. A word in quotes is a text in the picture, so it is no mention."""
    found: list[Mention] = []
    before = None
    quoted = [(quote.start(), quote.end()) for quote in re.finditer('"[^"]*"', text)]
    for hit in _MENTION.finditer(text):
        if any(start < hit.end() <= end for start, end in quoted):
            continue
        side, colour, name, place = (part and part.lower() for part in hit.groups()[:4])
        if place:
            found.append(Mention(hit.end(), "", place=_PLACE[place]))
        else:
            kind = _NAMED[name]
            found.append(Mention(hit.end(), kind, colour, _SIDE[side] if side else "", before))
            before = kind, colour
    return found


def look_up(scene: Scene, mention: Mention) -> np.ndarray:
    """The labels of a mention: int16 [len(LOOKUPS)], in the order of LOOKUPS; IGNORE where the scene does not decide."""
    found = np.full(len(LOOKUPS), IGNORE, np.int16)
    if scene.foreign:
        return found
    if mention.place:
        found[_WHO] = _who(things_at(scene, mention.place))
        return found
    things = _things(scene, mention.kind, mention.colour)
    if things is None:
        return found
    found[0] = bool(things)
    found[1] = min(len(things), MAX_COUNT)
    if len(things) != 1:
        return found
    (thing,) = things
    found[_ONE:_BESIDE] = _of_one(thing)
    others = _things(scene, *mention.before) if mention.before else None
    if others and len(others) == 1 and others[0] is not thing:
        found[_BESIDE:_WHO] = _beside(others[0], thing)
    if mention.side and any(thing is each for each in once(scene)):
        found[_WHO] = _who(things_beside(scene, thing, mention.side))
    return found


def _things(scene: Scene, kind: str, colour: str | None) -> list[Thing] | None:
    """The things that a mention can mean. None for a drawing with a colour, because drawings have several colours."""
    if colour and (scene.grey or (kind in BY_NAME and not BY_NAME[kind].is_shape)):
        return None
    return [thing for thing in scene.things if thing.kind == kind and colour in (None, thing.colour)]


def _of_one(thing: Thing) -> list[int]:
    column, row = (min(BINS - 1, int(value * BINS)) for value in thing.centre)
    region = IGNORE if thing.cell is None else _REGION[thing.cell]
    return [region, IGNORE if thing.colour is None else _COLOUR[thing.colour], column, row]


def _beside(one: Thing, other: Thing) -> list[int]:
    """The labels "across" and "down": on which sides of `other` the thing `one` is."""
    sides = side_of(one, other, 0), side_of(one, other, 1)
    return [IGNORE if side is None else int(side in ("right of", "below")) for side in sides]


def _who(things: list[Thing] | None) -> int:
    if things is None:
        return IGNORE
    kinds = {thing.kind for thing in things}
    if not kinds:
        return _NOTHING
    return _KIND.get(kinds.pop(), IGNORE) if len(kinds) == 1 else IGNORE


def word_list(rng: random.Random, scene: Scene, many: int) -> str:
    """A list of `many` random things and places: many lookups in few tokens. Half of its things are in the picture."""
    known = [group for group in groups(scene) if group.kind in BY_NAME]
    # Large groups are chosen more often. Otherwise most counts would be one.
    shares = [group.count for group in known]
    tints = sorted({group.colour for group in known if group.colour}) or list(COLOURS)
    words = []
    for _ in range(many):
        if known and rng.random() < 0.2:
            words.append(f"what is {rng.choice(list(REGIONS.values()))}")
            continue
        group = rng.choices(known, shares)[0] if known and rng.random() < 0.5 else _other(rng, scene, tints)
        words.append(_listed(rng, group))
    return ", ".join(words)


def _other(rng: random.Random, scene: Scene, tints: list[str]) -> Group:
    """A random kind, usually absent from the picture, in a colour of the picture."""
    kind = rng.choice(KINDS)
    return Group(kind.name, rng.choice(tints) if kind.is_shape and not scene.grey else None, "", 1)


def _listed(rng: random.Random, group: Group) -> str:
    form = rng.random()
    name = noun(group.kind, group.colour if rng.random() < 0.5 else None, many=form < 0.25)
    if form < 0.5:
        return name
    if form < 0.75:
        return f"{rng.choice(SIDES[rng.choice(tuple(SIDES))])} the {name}"
    return with_article(name) if rng.random() < 0.5 else f"the {name}"
