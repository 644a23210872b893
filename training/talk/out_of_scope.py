"""Prompts for tasks that the model cannot do, made of templates and fillers. Both are split into training and test."""

from __future__ import annotations

import random

from training.talk.exchange import Exchange, careless, read_pools
from training.talk.honesty import beyond

FILLERS = read_pools("fillers.txt", parted=";")
FILLERS.update({name + "2": FILLERS[name] for name in ("symptom", "drug", "person", "topic", "science", "city")})
TEMPLATES = read_pools("out_of_scope.txt")
_SUBJECTS = tuple(TEMPLATES)


def out_of_scope(rng: random.Random, split: str) -> Exchange:
    """Makes a prompt that the model cannot answer, and an answer that says so. Test prompts use held-out parts only."""
    subject = rng.choice(_SUBJECTS)
    template = TEMPLATES[subject].pick(rng, split)
    question = template.format_map(_Drawn(rng, split))
    return Exchange("out_of_scope", careless(rng, question[0].upper() + question[1:]), beyond(rng, subject))


class _Drawn(dict[str, str]):
    """A mapping for str.format_map that draws a random filler for each name on first access."""

    def __init__(self, rng: random.Random, split: str) -> None:
        super().__init__()
        self._rng, self._split = rng, split

    def __missing__(self, name: str) -> str:
        self[name] = FILLERS[name].pick(self._rng, self._split)
        return self[name]
