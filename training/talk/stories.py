"""Short stories about the things of a scene or about one kind of thing: an opening, a plot and an end.

No plot uses a thing, a colour or a place of kinds.py, so that a story says nothing false about the picture.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from training.kinds import CATEGORY_NOUNS, TEXT, UNKNOWNS, category_of
from training.scenes import Scene
from training.talk.exchange import Exchange, capital
from training.talk.phrases import Group, before_background, empty_background, groups, named
from training.talk.questions import pose

# Slots, with an example of each: {who} a dog; {The} The dog; {they} it; {was} was; {where} on a green meadow.
_OPENINGS = (
    "Once upon a time there {was} {who}{where}.",
    "Once there {was} {who}{where}.",
    "One morning {who} woke up{where}.",
    "Long ago there {was} {who}{where}.",
    "There once {was} {who}{where}.",
    "One fine day {who} went for a walk{where}.",
)
_ALONE = (
    "{The} wanted to see the world and went on a long walk.",
    "Every day {the} dreamed of a great adventure.",
    "{The} learned to sing, and soon all the neighbors came to listen.",
    "{The} found a small gate and looked behind it.",
    "{The} could not sleep and counted to one hundred.",
    "{The} was_were looking for a friend and asked everybody.",
    "{The} heard a strange noise, but it was only the wind.",
    "{The} wanted to fly, and one day it worked.",
)
_TOGETHER = (
    "Then {friend} came by, and they played all day.",
    "{Friend} had lost the way, and {the} helped.",
    "Soon {friend} came along and told a funny joke.",
    "{The} met {friend}, and they went on a journey together.",
    "{The} invited {friend} to a party.",
    "One day {friend} arrived and asked for help.",
    "{The} wanted to race, and {friend} said yes.",
)
_ENDS = (
    "In the evening {they} went home, tired and happy.",
    "That was the best day of all.",
    "In the end everybody laughed.",
    "And {they} never forgot that day.",
    "From then on {they} was_were never sad again.",
    "Then {they} fell asleep with a smile.",
    "And so all ended well.",
)
_SIGNS = (
    'Once upon a time somebody wrote "{text}" on a sign{with_friend}.',
    'One morning a new sign said "{text}"{with_friend}.',
    'Long ago there was a sign that said "{text}"{with_friend}.',
)
_SIGN_PLOTS = (
    "Everybody wondered what it meant.",
    "All who came by read it aloud.",
    "Nobody knew who had written it.",
    "A stranger read it and began to laugh.",
)
_SIGN_ENDS = (
    "In the end it became the name of the town.",
    "And so all ended well.",
    "That was the start of a great adventure.",
    "Nobody ever forgot that day.",
)
_EMPTY = (
    "Once upon a time there was only {empty}. Nothing happened there. It waited for somebody to come.",
    "Long ago there was nothing, only {empty}. It was very quiet. One day somebody will draw something there.",
    "The picture is empty: {empty}. It dreamed of being full one day. And it waited.",
)
_BOTH = ("The image shows {all}.", "I can see {all}.", "The picture shows {all}.", "I see {all}.")


def story(rng: random.Random, scene: Scene) -> Exchange:
    """Asks for a story about the scene. Some questions also ask what the picture shows; the answer then begins with that."""
    found = groups(scene)
    both = bool(found) and rng.random() < 0.35
    question = pose(rng, "what_story" if both else "story", scene.split)
    told = tell(rng, found, scene)
    if both:
        told = rng.choice(_BOTH).format(all=named(found)) + " " + told
    gold = tuple(group.key for group in found)
    return Exchange("story", question, told, gold, found[0].kind if len(found) == 1 else "")


def story_of(rng: random.Random, kind: str) -> str:
    """Tells a story about one thing of a kind, without a scene."""
    return _plot(rng, Group(kind, None, "", 1), None, "")


def tell(rng: random.Random, found: Sequence[Group], scene: Scene) -> str:
    if not found:
        return rng.choice(_EMPTY).format(empty=empty_background(scene))
    texts = [group for group in found if group.kind == TEXT]
    others = [group for group in found if group.kind != TEXT]
    if texts:
        with_friend = f", and {others[0].phrase} saw it" if others else ""
        opening = rng.choice(_SIGNS).format(text=texts[0].text, with_friend=with_friend)
        return " ".join((opening, rng.choice(_SIGN_PLOTS), rng.choice(_SIGN_ENDS)))
    first, *rest = rng.sample(others, len(others))
    where = "" if scene.plain or rng.random() < 0.4 else " " + before_background(scene)
    return _plot(rng, first, rest[0] if rest else None, where)


def _plot(rng: random.Random, hero: Group, friend: Group | None, where: str) -> str:
    one = hero.count == 1
    the = f"the strange {CATEGORY_NOUNS.get(category_of(hero.kind), 'thing')}" if hero.kind in UNKNOWNS else hero.the
    slots = {
        "who": hero.phrase,
        "the": the,
        "The": capital(the),
        "they": hero.pronoun,
        "was": "was" if one else "were",
        "where": where,
    }
    parts = [rng.choice(_OPENINGS)]
    if friend is None:
        parts += rng.sample(_ALONE, 1 if rng.random() < 0.6 else 2)
    else:
        slots["friend"], slots["Friend"] = friend.phrase, capital(friend.phrase)
        parts += [rng.choice(_ALONE)] if rng.random() < 0.3 else []
        parts.append(rng.choice(_TOGETHER))
        if slots["they"] == "it" and rng.random() < 0.7:
            slots["they"] = "they"
    parts.append(rng.choice(_ENDS))
    together = slots["they"] == "they"
    told = []
    for part in parts:
        subject_many = together if "{they} was_were" in part else not one
        told.append(part.replace("was_were", "were" if subject_many else "was").format(**slots))
    return " ".join(told)
