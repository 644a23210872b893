"""Chooses the questions: single questions by weight, and conversations whose later questions refer to the earlier ones."""

from __future__ import annotations

import random
from collections.abc import Callable

from training.figures import FIGURES, QUESTIONS
from training.kinds import BY_NAME, TEXT
from training.scenes import Scene
from training.talk import about_picture, figures, honesty, places, stories
from training.talk.exchange import Exchange
from training.talk.followups import follow_up, keep_talking
from training.talk.without_picture import aside, small_talk

Maker = Callable[[random.Random, Scene], "Exchange | None"]

_MAKERS: dict[str, Maker] = {
    "what": about_picture.what,
    "describe": about_picture.describe,
    "count": about_picture.count,
    "where": places.where,
    "relation": places.relation,
    "yesno": about_picture.yesno,
    "read": about_picture.read,
    "colour": about_picture.colour,
    "extreme": places.extreme,
    "single": about_picture.single,
    "category": about_picture.category,
    "background": about_picture.background,
    "story": stories.story,
    "cannot": honesty.cannot,
    "mood": figures.mood,
    **{kind: figures.maker(kind) for kind in QUESTIONS},
}
# How often each kind of question is asked. The hard, visual kinds are frequent. A kind that only some scenes allow is asked more
# often there: _MANY for scenes with several things of a kind, _SEVERAL for scenes with different kinds, _TEXT for texts, and the
# questions about a figure or a face where there is one.
_WEIGHTS = {
    "what": 14.0,
    "describe": 11.0,
    "count": 7.0,
    "where": 15.0,
    "relation": 10.0,
    "yesno": 16.0,
    "read": 2.0,
    "colour": 8.0,
    "extreme": 6.0,
    "single": 6.0,
    "category": 3.0,
    "background": 3.0,
    "story": 3.0,
    "cannot": 3.0,
    "mood": 0.0,
    **dict.fromkeys(QUESTIONS, 0.0),
}
KINDS_OF_QUESTION = tuple(_WEIGHTS)
_FEW = list(_WEIGHTS.values())
_MANY = [{"count": 45.0}.get(kind, weight) for kind, weight in _WEIGHTS.items()]
_SEVERAL = [{"relation": 60.0, "where": 22.0, "extreme": 20.0}.get(kind, weight) for kind, weight in _WEIGHTS.items()]
_TEXT = [{"read": 60.0, "relation": 30.0, "colour": 10.0, "count": 3.0}.get(kind, weight) for kind, weight in _WEIGHTS.items()]


def _weights(scene: Scene) -> list[float]:
    kinds = {thing.kind for thing in scene.things}
    own = {"mood": 12.0} if any(kind in BY_NAME and BY_NAME[kind].mood for kind in kinds) else {}
    own |= {kind: 90.0 / len(FIGURES[figure].questions) for kind, (figure, _) in QUESTIONS.items() if figure in kinds}
    if own:
        return [own.get(kind, weight) for kind, weight in zip(KINDS_OF_QUESTION, _usual_weights(scene, kinds), strict=True)]
    return _usual_weights(scene, kinds)


def _usual_weights(scene: Scene, kinds: set[str]) -> list[float]:
    if TEXT in kinds:
        return _TEXT
    if len(kinds) < len(scene.things):
        return _MANY
    return _SEVERAL if len(kinds) > 1 else _FEW


def ask(rng: random.Random, scene: Scene, kind: str = "", seen_colours: tuple[str, ...] = ()) -> Exchange | None:
    """Makes a question about the scene with its true answer.

    Args:
        kind: One of KINDS_OF_QUESTION; empty for the training mix, which always gives a question.
        seen_colours: The one or two main colours of a foreign picture.

    Returns:
        None if people would disagree on the answer to a question of this kind.
    """
    if scene.foreign:
        return honesty.foreign(rng, scene, seen_colours, kind)
    if kind:
        return _MAKERS[kind](rng, scene)
    weights = _weights(scene)
    for _ in range(8):
        exchange = _MAKERS[rng.choices(KINDS_OF_QUESTION, weights)[0]](rng, scene)
        if exchange is not None:
            return exchange
    return about_picture.what(rng, scene)


def conversation(
    rng: random.Random, scene: Scene | None, turns: int, split: str = "train", seen_colours: tuple[str, ...] = ()
) -> list[Exchange]:
    """Makes `turns` exchanges about the scene, or small talk if the scene is None. Later questions may use "it" and "them"."""
    if scene is None:
        exchanges = [small_talk(rng, split=split)]
        while len(exchanges) < turns:
            exchanges.append(keep_talking(rng, exchanges[-1], split) or small_talk(rng, split=split))
        return exchanges
    exchanges = []
    while len(exchanges) < turns:
        last = exchanges[-1] if exchanges else None
        exchanges.append(_next(rng, scene, last, seen_colours))
    return exchanges


def _next(rng: random.Random, scene: Scene, last: Exchange | None, seen_colours: tuple[str, ...]) -> Exchange:
    draw = rng.random()
    if last is not None and draw < 0.55:
        exchange = follow_up(rng, scene, last)
        if exchange is not None:
            return exchange
    if draw > 0.88:
        return aside(rng, scene.split)
    exchange = ask(rng, scene, seen_colours=seen_colours)
    assert exchange is not None
    return exchange
