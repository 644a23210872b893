"""Questions about what a figure shows (figures/), and about the mood of a face."""

from __future__ import annotations

import random
from collections.abc import Callable

from training.figures import QUESTIONS
from training.kinds import BY_NAME
from training.scenes import Scene
from training.talk.exchange import Exchange, capital
from training.talk.phrases import with_article
from training.talk.questions import pose

_MOOD = (
    "The face is {}.",
    "It is {}.",
    "{Mood}.",
    "It looks {}.",
    "The face looks {}.",
    "This is {a} face.",
)


def maker(kind: str) -> Callable[[random.Random, Scene], Exchange | None]:
    """Returns a function that asks a question about a figure. kind: a key of figures.QUESTIONS."""
    figure, question = QUESTIONS[kind]

    def make(rng: random.Random, scene: Scene) -> Exchange | None:
        shown = [thing for thing in scene.things if thing.kind == figure]
        if len(shown) != 1 or (scene.grey and not question.colourless):
            return None
        found = question.answer(rng, shown[0].text)
        return None if found is None else Exchange(kind, pose(rng, kind, scene.split), found[0], found[1], figure)

    return make


def mood(rng: random.Random, scene: Scene) -> Exchange | None:
    """Asks how the one face of the scene feels."""
    faces = [thing.kind for thing in scene.things if thing.kind in BY_NAME and BY_NAME[thing.kind].mood]
    if len(faces) != 1:
        return None
    gold = BY_NAME[faces[0]].mood
    answer = rng.choice(_MOOD).format(gold, Mood=capital(gold), a=with_article(gold))
    return Exchange("mood", pose(rng, "mood", scene.split), answer, gold, faces[0])
