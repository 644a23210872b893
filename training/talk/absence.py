"""Questions about things that are not in the picture, and answers that say so."""

from __future__ import annotations

import random
from collections.abc import Sequence

from training.kinds import BY_NAME, KINDS
from training.scenes import Scene
from training.talk.exchange import Exchange
from training.talk.phrases import Group, named, there, with_article
from training.talk.questions import pose


def absent(rng: random.Random, scene: Scene) -> str:
    """The name of a kind that is not in the scene; in half of the cases of the same category as a thing in the scene."""
    present = {thing.kind for thing in scene.things}
    categories = {BY_NAME[kind].category for kind in present if kind in BY_NAME}
    near = categories and rng.random() < 0.5
    while True:
        kind = rng.choice(KINDS)
        if kind.name not in present and (not near or kind.category in categories):
            return kind.name


def missing(rng: random.Random, scene: Scene, ask: str) -> Exchange:
    """Asks where a thing is that is not there, or which colour it has. ask: "where" or "colour"."""
    kind = BY_NAME[absent(rng, scene)]
    question = pose(rng, ask, scene.split, the=f"the {kind.name}", be="is")
    answer = rng.choice(
        ("There is no {}.", "There is no {} in the picture.", "I see no {}.", "I cannot see a {}.", "No {} is in the picture.")
    )
    if "a {}" in answer:
        answer = answer.replace("a {}", with_article(kind.name))
    return Exchange(ask, question, answer.format(kind.name), "")


def no_answer(rng: random.Random, found: Sequence[Group], one: str) -> str:
    """An answer "No", in half of the cases with what is there instead.

    Args:
        found: The groups of the scene.
        one: The missing thing, without an article.
    """
    forms = ["No.", f"No, there is no {one}.", f"No, I see no {one}.", f"No, I do not see {with_article(one)}."]
    if not found:
        forms.append("No, the picture is empty.")
    elif rng.random() < 0.5 and len(found) <= 3:
        every = named(found)
        forms = [
            f"No, only {every}.",
            f"No, I see only {every}.",
            f"No, there {there(found)} only {every}.",
            f"No, it shows {every}.",
        ]
    return rng.choice(forms)
