"""A question with its answer, and how questions are asked: phrasings kept apart for training and test, and careless typing.

Knows nothing of pictures.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

TEST_SHARE = 8  # one phrasing in this many is kept for the test

_PREFIXES = (
    "Please tell me: ",
    "Tell me, ",
    "Hi, ",
    "Hello! ",
    "Hey, ",
    "Okay, ",
    "So, ",
    "Now, ",
    "And ",
    "Well, ",
    "Quick question: ",
    "One question: ",
    "I have a question. ",
    "Look at this. ",
    "Please, ",
    "Can you help me? ",
)
_SUFFIXES = (", please", " please", " Thanks", " Thank you", " now", ", can you tell me", ", do you know")


@dataclass(frozen=True)
class Exchange:
    """One question and its answer.

    kind: of question. gold: what a reply is judged by; its type depends on the kind (talk/truth.py). about: the kind of the
    one thing that is spoken of, so that the next question can call it "it"; empty when there is none.
    """

    kind: str
    question: str
    answer: str
    gold: object = None
    about: str = ""


def is_held_out(phrasing: str) -> bool:
    """True for the eighth of all phrasings that only the test uses."""
    return zlib.crc32(phrasing.encode()) % TEST_SHARE == 0


class Pool:
    """Things to say, one a line, parted by their hash into those for training and those for the test.

    The first `keep` lines are always for training. Both parts hold at least one line.
    """

    def __init__(self, lines: str | Sequence[str], keep: int = 1) -> None:
        every = tuple(lines.strip().splitlines() if isinstance(lines, str) else lines)
        held = {line for line in every[keep:] if is_held_out(line)} or {every[-1]}
        self.train = tuple(line for line in every if line not in held)
        self.test = tuple(line for line in every if line in held)

    def pick(self, rng: random.Random, split: str) -> str:
        return rng.choice(self.test if split == "test" else self.train)

    def of(self, split: str) -> tuple[str, ...]:
        return self.test if split == "test" else self.train


def careless(rng: random.Random, text: str) -> str:
    """The text as people type it: half of the time as it is, else without capitals or marks, or with a polite word."""
    draw = rng.random()
    if draw < 0.5:
        return text
    if draw < 0.6:
        return text.rstrip("?.!")
    quoted = '"' in text
    if draw < 0.68:
        return text if quoted else lower_first(text)
    if draw < 0.82:
        return text if quoted else text.lower().rstrip("?.!")
    if draw < 0.92:
        return rng.choice(_PREFIXES) + lower_first(text)
    mark = text[-1] if text[-1] in "?.!" else ""
    suffix = rng.choice(_SUFFIXES)
    return text + suffix + "." if suffix.startswith(" Th") else text.rstrip("?.!") + suffix + mark


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def lower_first(text: str) -> str:
    return text if text.startswith(("I ", "I'")) else text[0].lower() + text[1:]
