"""Scenes to talk about, and exchanges of every kind about random ones."""

from __future__ import annotations

import random
from collections.abc import Iterator

from training.sampling import sample_scene
from training.scenes import Scene, Thing
from training.talk import KINDS_OF_QUESTION, Exchange, ask, conversation, small_talk
from training.talk.without_picture import KINDS_OF_SMALL_TALK

DOG = Thing("dog", None, (0.05, 0.42, 0.25, 0.62))
CAT = Thing("cat", None, (0.75, 0.4, 0.95, 0.6))
PETS = Scene((DOG, CAT), "white", 300, 300, 0)
STARS = Scene(tuple(Thing("star", "red", (x, 0.4, x + 0.2, 0.6)) for x in (0.05, 0.35, 0.7)), "a green meadow", 300, 300, 0)


def exchanges(seed: int, count: int = 700) -> list[Exchange]:
    """Exchanges of every kind, about random scenes and without."""
    rng = random.Random(seed)
    found: list[Exchange] = []
    for number in range(count):
        split = rng.choice(("train", "test"))
        scene = sample_scene(rng, split)
        exchange = ask(rng, scene, KINDS_OF_QUESTION[number % len(KINDS_OF_QUESTION)], ("green", "brown"))
        found += [exchange] if exchange else []
        found += conversation(rng, scene, 3, split, ("gray",))
        found.append(small_talk(rng, KINDS_OF_SMALL_TALK[number % len(KINDS_OF_SMALL_TALK)], split))
    return found


EXCHANGES = exchanges(1)


def asked(scene: Scene, kind: str, seed: int = 0, count: int = 60) -> Iterator[Exchange]:
    rng = random.Random(seed)
    found = (ask(rng, scene, kind) for _ in range(count))
    return (exchange for exchange in found if exchange is not None)
