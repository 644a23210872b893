"""Questions about places: in which region of the picture a thing is, on which side of another thing, and what is at a place."""

from __future__ import annotations

import random

from training.kinds import REGIONS, UNKNOWNS
from training.scenes import SIDE_MARGIN, Scene, Thing
from training.talk.absence import missing
from training.talk.exchange import Exchange, capital
from training.talk.phrases import Group, group_of, groups, keys, listed, there
from training.talk.questions import OPPOSITE, SIDES, asked_place, pose

# "Where is the dog relative to the cat?": the offset along one axis must be this many times the other offset, in pixels.
DOMINANT = 1.4

_WHERE = (
    "{The} is {place}.",
    "It is {place}.",
    "{Place}.",
    "You can find it {place}.",
    "I see it {place}.",
    "{The} is {place} of the picture.",
)
_RELATIVE = ("{The} is {side} {the2}.", "It is {side} {the2}.", "{Side} {the2}.", "I see it {side} {the2}.")
_AT_PLACE = ("{Place} there {be} {all}.", "{All}.", "It is {all}.", "I see {all}.", "There {be} {all}.", "{All} {be} {place}.")
_BORDERS = {"on the left": (0, -1), "on the right": (0, 1), "at the top": (1, -1), "at the bottom": (1, 1)}
_INNER = tuple(name for (column, row), name in REGIONS.items() if (column == 1) == (row == 1))  # the corners and the center


def once(scene: Scene) -> list[Thing]:
    """The known things whose kind is in the scene exactly once."""
    return [thing for thing in scene.things if thing.known and scene.count(thing.kind) == 1]


def side_of(one: Thing, other: Thing, axis: int) -> str | None:
    """The side of `other` where `one` is: "left of", "right of" (axis 0), "above", "below" (axis 1). None within SIDE_MARGIN."""
    offset = one.centre[axis] - other.centre[axis]
    if abs(offset) < SIDE_MARGIN:
        return None
    return ("left of" if offset < 0 else "right of") if axis == 0 else ("above" if offset < 0 else "below")


def main_axis(scene: Scene, one: Thing, other: Thing) -> int | None:
    """The axis along which the two things are clearly farther apart in pixels: 0 for x, 1 for y, None for neither."""
    across = abs(one.centre[0] - other.centre[0]) * scene.width
    down = abs(one.centre[1] - other.centre[1]) * scene.height
    if across >= DOMINANT * down:
        return 0
    return 1 if down >= DOMINANT * across else None


def main_side(scene: Scene, one: Thing, other: Thing) -> str | None:
    """The side of `other` along the main axis on which `one` is; None if people would disagree."""
    axis = main_axis(scene, one, other)
    return None if axis is None else side_of(one, other, axis)


def where_answer(rng: random.Random, group: Group, place: str) -> str:
    return rng.choice(_WHERE).format(The=capital(group.the), place=place, Place=capital(place))


def where(rng: random.Random, scene: Scene) -> Exchange | None:
    if rng.random() < 0.07:
        return missing(rng, scene, "where")
    placed = [thing for thing in once(scene) if thing.region is not None]
    if not placed:
        return None
    thing = rng.choice(placed)
    assert thing.region is not None
    group = group_of(thing)
    question = pose(rng, "where", scene.split, the=_the(rng, thing))
    return Exchange("where", question, where_answer(rng, group, thing.region), thing.region, thing.kind)


def _the(rng: random.Random, thing: Thing) -> str:
    """The thing as a question names it, sometimes with its colour."""
    return f"the {thing.colour} {thing.kind}" if thing.colour and rng.random() < 0.3 else f"the {thing.kind}"


def relation(rng: random.Random, scene: Scene) -> Exchange | None:
    things = once(scene)
    if len(things) < 2:
        return None
    one, other = rng.sample(things, 2)
    draw = rng.random()
    if draw < 0.5:
        return is_relation(rng, scene, one, other)
    if draw < 0.78:
        return _what_relation(rng, scene, other)
    side = main_side(scene, one, other)
    if side is None:
        return None
    first, second = group_of(one), group_of(other)
    question = pose(rng, "relation_where", scene.split, the=_the(rng, one), the2=_the(rng, other))
    answer = rng.choice(_RELATIVE).format(The=capital(first.the), side=side, Side=capital(side), the2=second.the)
    return Exchange("relation", question, answer, side, one.kind)


def is_relation(rng: random.Random, scene: Scene, one: Thing, other: Thing, ask: str = "relation") -> Exchange | None:
    """Asks "Is the dog left of the cat?". Yes and no are equally frequent."""
    axis = rng.randrange(2)
    side = side_of(one, other, axis) or side_of(one, other, 1 - axis)
    if side is None:
        return None
    yes = rng.random() < 0.5
    asked = rng.choice(SIDES[side if yes else OPPOSITE[side]])
    first, second = group_of(one), group_of(other)
    question = pose(rng, ask, scene.split, the=_the(rng, one), the2=_the(rng, other), side=asked)
    word = "Yes" if yes else "No"
    answer = rng.choice((f"{word}.", f"{word}, {first.the} is {side} {second.the}.", f"{word}, it is {side} {second.the}."))
    return Exchange("relation", question, answer, yes, one.kind)


def _what_relation(rng: random.Random, scene: Scene, other: Thing) -> Exchange | None:
    """Asks "What is left of the cat?"."""
    side = rng.choice(tuple(SIDES))
    hits = things_beside(scene, other, side)
    if hits is None:
        return None
    name = group_of(other).the
    question = pose(rng, "relation_what", scene.split, the2=_the(rng, other), side=rng.choice(SIDES[side]))
    if not hits:
        if rng.random() < 0.6:
            return None
        answer = rng.choice((f"Nothing is {side} {name}.", "Nothing.", f"There is nothing {side} {name}.", "There is nothing."))
        return Exchange("relation", question, answer, ())
    found = groups(Scene(tuple(hits), scene.background, scene.width, scene.height, 0))
    every = listed([group.phrase for group in found])
    forms = ("{All}.", "{Side} {name} there {be} {all}.", "There {be} {all}.", "I see {all}.", "I see {all} {side} {name}.")
    answer = rng.choice(forms).format(all=every, All=capital(every), be=there(found), side=side, Side=capital(side), name=name)
    return Exchange("relation", question, answer, keys(found), _one_kind(found))


def things_beside(scene: Scene, other: Thing, side: str) -> list[Thing] | None:
    """The things at a side of `other`. None if a thing is neither clearly at that side nor clearly elsewhere."""
    axis = 0 if side in ("left of", "right of") else 1
    hits = []
    for thing in scene.things:
        if thing is other:
            continue
        if side_of(thing, other, axis) == side:
            if main_axis(scene, thing, other) != axis:
                return None
            hits.append(thing)
        elif side_of(thing, other, axis) is None and not (
            main_axis(scene, thing, other) == 1 - axis and side_of(thing, other, 1 - axis)
        ):
            return None
    if any(sum(hit.kind == thing.kind for hit in hits) < scene.count(thing.kind) for thing in hits):
        return None  # another thing of the same kind is elsewhere
    return hits


def _one_kind(found: list[Group]) -> str:
    return found[0].kind if len(found) == 1 and found[0].count == 1 and found[0].kind not in UNKNOWNS else ""


def extreme(rng: random.Random, scene: Scene) -> Exchange | None:
    """Asks what is at a place: "What is on the left?", "What is in the center?"."""
    if len(scene.things) < 2:
        return None
    if rng.random() < 0.65:
        place = rng.choice(tuple(_BORDERS))
    else:
        place = rng.choice(_INNER)
        cells = [thing.region for thing in scene.things]
        if place not in cells and rng.random() < 0.8:
            place = rng.choice([cell for cell in cells if cell] or [place])
    hits = things_at(scene, place)
    return None if hits is None else _at_place(rng, scene, place, hits)


def things_at(scene: Scene, place: str) -> list[Thing] | None:
    """The things that people would name at a place; None if people would disagree.

    In a corner or the center, these are all things in that region. At a border ("on the left"), it is the outermost thing, if it
    is clearly the outermost, on that half of the picture, and the only one of its kind.
    """
    if place in _INNER:
        found = [(thing.region, thing) for thing in scene.things]
        return None if any(region is None for region, _ in found) else [thing for region, thing in found if region == place]
    axis, sign = _BORDERS[place]
    ordered = sorted(scene.things, key=lambda thing: -sign * thing.centre[axis])
    if len(ordered) < 2:
        return None
    first, second = (thing.centre[axis] for thing in ordered[:2])
    if abs(first - second) < SIDE_MARGIN or sign * (first - 0.5) < 0.05 or scene.count(ordered[0].kind) > 1:
        return None
    return ordered[:1]


def _at_place(rng: random.Random, scene: Scene, place: str, hits: list[Thing]) -> Exchange:
    question = pose(rng, "extreme", scene.split, place=asked_place(rng, place))
    found = groups(Scene(tuple(hits), scene.background, scene.width, scene.height, 0))
    if not found:
        answer = rng.choice((f"There is nothing {place}.", "Nothing.", f"Nothing is {place}.", "There is nothing."))
        return Exchange("extreme", question, answer, ())
    every = listed([group.phrase for group in found])
    be = found[0].verb
    answer = rng.choice(_AT_PLACE).format(Place=capital(place), place=place, all=every, All=capital(every), be=be)
    if len(found) > 1 or be == "are":
        answer = answer.replace("It is", "I see")
    return Exchange("extreme", question, answer, keys(found), _one_kind(found))


def details(rng: random.Random, scene: Scene) -> list[str]:
    """Up to two more sentences for a description: where a thing is, or on which side of another thing."""
    if len(scene.things) > 4 or rng.random() < 0.4:
        return []
    sentences = []
    placed = [thing for thing in once(scene) if thing.region is not None]
    rng.shuffle(placed)
    for thing in placed[: rng.choice((1, 1, 2))]:
        name = group_of(thing).the
        sentences.append(rng.choice((f"{capital(name)} is {thing.region}.", f"You can find {name} {thing.region}.")))
    if not sentences or rng.random() < 0.25:
        things = once(scene)
        if len(things) >= 2:
            one, other = rng.sample(things, 2)
            side = main_side(scene, one, other)
            if side:
                sentences.append(f"{capital(group_of(one).the)} is {side} {group_of(other).the}.")
    return sentences[:2]
