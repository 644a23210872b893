"""The phrasings of all questions about a picture, by kind of question. The module knows the words in kinds.py, but no scene."""

from __future__ import annotations

import random

from training.figures import QUESTIONS as FIGURE_QUESTIONS
from training.kinds import CATEGORIES, CATEGORY_NOUNS, COLOURS, KINDS, REGIONS, article
from training.talk.exchange import Pool, careless, read_pools

_IMAGES = ("image", "image", "image", "picture", "picture", "picture", "photo", "drawing")
_COLOURS = ("color", "color", "colour")

# Slots, with an example of each: {image} picture; {color} colour; {a} a dog; {the} the dog; {many} dogs; {the2} the cat;
# {tint} red; {side} left of; {place} at the top; {category} an animal; {categories} animals; {be} is; {number} two.
QUESTIONS = read_pools("things.txt") | read_pools("places.txt")
QUESTIONS |= {kind: Pool(question.phrasings, 2) for kind, (_, question) in FIGURE_QUESTIONS.items()}
SIDES: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under"),
}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
CATEGORY_PHRASES = {name: f"{article(noun)} {noun}" for name, noun in CATEGORY_NOUNS.items()} | {"food": "food"}
CATEGORY_MANY = {name: f"{noun}s" for name, noun in CATEGORY_NOUNS.items()} | {"clothing": "pieces of clothing"}
_PICTURE_KINDS = tuple(
    kind for kind in QUESTIONS if kind not in ("count_all", "is_this", "is_colour", "is_count", "read_any", "read_line")
)


def pose(rng: random.Random, kind: str, split: str, **slots: str) -> str:
    """Makes a question of this kind, carelessly typed. slots: the values of the phrasing's slots."""
    template = QUESTIONS[kind].pick(rng, split)
    text = template.format(image=rng.choice(_IMAGES), color=rng.choice(_COLOURS), **slots)
    return careless(rng, text[0].upper() + text[1:])


def asked_place(rng: random.Random, place: str) -> str:
    """The region in British or American spelling."""
    return place.replace("center", "centre") if "center" in place and rng.random() < 0.3 else place


def any_question(rng: random.Random, split: str, kind: str = "") -> str:
    """Makes a question that fits no particular scene, for foreign pictures and for a missing picture. kind: empty for any."""
    one, other = rng.sample(KINDS, 2)
    category = rng.choice(CATEGORIES)
    return pose(
        rng,
        kind or rng.choice(_PICTURE_KINDS),
        split,
        a=f"{one.article} {one.name}",
        the=f"the {one.name}",
        many=one.many,
        the2=f"the {other.name}",
        be="is",
        tint=rng.choice(tuple(COLOURS)),
        side=rng.choice(SIDES[rng.choice(tuple(SIDES))]),
        place=asked_place(rng, rng.choice(tuple(REGIONS.values()))),
        number=rng.choice(("two", "three", "four")),
        category=CATEGORY_PHRASES[category],
        categories=CATEGORY_MANY[category],
    )
