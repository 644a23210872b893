"""A question with its answer, the phrasings of questions, split into training and test, and careless typing.

The module knows nothing of pictures.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEST_SHARE = 8  # one phrasing in this many is held out for the test
COMMON_SHARE = 0.2  # share of training questions that have a common phrasing

_PREFIXES = (
    "Please tell me: ",
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
_THANKS = (" Thanks.", " Thank you.", " Thanks!")
_SUFFIXES = (", please", " please", ", can you tell me", ", do you know")


@dataclass(frozen=True)
class Exchange:
    """One question and its answer.

    Attributes:
        kind: Kind of question.
        gold: The true answer as a value, for the judges in truth.py. Its type depends on the kind.
        about: Kind of the one thing that the exchange is about, which the next question can call "it"; empty for none.
    """

    kind: str
    question: str
    answer: str
    gold: Any = None
    about: str = ""


def meaning(phrasing: str) -> str:
    """The phrasing without variation of spelling and slots. Two phrasings with the same meaning are in the same split."""
    text = phrasing.lower().replace("'s ", " is ").replace("colour", "color").replace("{color}", "color")
    return re.sub(r"[^\w{} +*=-]", "", re.sub(r"\{image\}|\bpicture\b|\bphoto\b|\bdrawing\b", "image", text)).strip()


class Pool:
    """Phrasings of one kind of question, split by hash: 1 / TEST_SHARE for the test, the rest for training.

    The first `keep` entries are common phrasings: they are always for training and are picked more often. Each split has at least
    one entry.
    """

    def __init__(self, entries: Sequence[str], keep: int = 1) -> None:
        every = tuple(dict.fromkeys(entries))
        self.common = every[:keep]
        common = {meaning(entry) for entry in self.common}
        others = sorted({meaning(entry) for entry in every} - common, key=lambda text: zlib.crc32(text.encode()))
        held = others[: max(1, round(len(every) / TEST_SHARE))]
        self.train = tuple(entry for entry in every if meaning(entry) not in held)
        self.test = tuple(entry for entry in every if meaning(entry) in held)

    def pick(self, rng: random.Random, split: str) -> str:
        if split == "test":
            return rng.choice(self.test)
        return rng.choice(self.common if self.common and rng.random() < COMMON_SHARE else self.train)


def read_pools(name: str, parted: str = "\n") -> dict[str, Pool]:
    """Reads the pools of a file in phrasings/. A line "[kind n]" starts a pool with keep = n.

    Args:
        parted: Separator of the entries.
    """
    pools = {}
    text = (Path(__file__).parent / "phrasings" / name).read_text(encoding="utf-8")
    for section in text.split("\n[")[1:]:
        head, _, body = section.partition("]\n")
        kind, keep = head.rsplit(" ", 1)
        pools[kind] = Pool([" ".join(entry.split()) for entry in body.strip().split(parted)], int(keep))
    return pools


def sloppy(rng: random.Random, text: str) -> str:
    """The text as people type it: mostly unchanged, else without its capital, without its end mark, or in lower case."""
    draw = rng.random()
    if draw < 0.6:
        return text
    if draw < 0.72:
        return text.rstrip("?.!")
    if '"' in text:
        return text
    return lower_first(text) if draw < 0.82 else text.lower().rstrip("?.!")


def careless(rng: random.Random, text: str) -> str:
    """The text as people type it (sloppy), sometimes with polite words before or after it."""
    draw = rng.random()
    if draw < 0.82:
        return sloppy(rng, text)
    if draw < 0.92:
        return rng.choice(_PREFIXES) + lower_first(text)
    if draw < 0.95:
        return text + rng.choice(_THANKS)
    mark = text[-1] if text[-1] in "?.!" else ""
    return text.rstrip("?.!") + rng.choice(_SUFFIXES if mark == "?" else _SUFFIXES[:2]) + mark


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def lower_first(text: str) -> str:
    return text if text.startswith(("I ", "I'")) else text[0].lower() + text[1:]
