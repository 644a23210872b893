"""A question with its answer, and how questions are asked: phrasings kept apart for training and test, and careless typing.

Knows nothing of pictures.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TEST_SHARE = 8  # one phrasing in this many is kept for the test, by the hash of what it says
COMMON_SHARE = 0.2  # of training questions that are phrased as most people would

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

    kind: of question. gold: what a reply is judged by; its type depends on the kind (talk/truth.py). about: the kind of the
    one thing that is spoken of, so that the next question can call it "it"; empty when there is none.
    """

    kind: str
    question: str
    answer: str
    gold: object = None
    about: str = ""


def meaning(phrasing: str) -> str:
    """The phrasing without what carelessness and slots vary: by this, training and test differ."""
    text = phrasing.lower().replace("'s ", " is ").replace("colour", "color").replace("{color}", "color")
    return re.sub(r"[^\w{} +*=-]", "", re.sub(r"\{image\}|\bpicture\b|\bphoto\b|\bdrawing\b", "image", text)).strip()


class Pool:
    """Ways to say something, parted by their hash: an eighth only for the test, the rest for training.

    The first `keep` entries are what most people say: always for training, and more often. Both parts hold at least one entry.
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
    """The pools of a file in phrasings/: "[kind n]" opens one of which the first n entries are always for training."""
    pools = {}
    text = (Path(__file__).parent / "phrasings" / name).read_text(encoding="utf-8")
    for section in text.split("\n[")[1:]:
        head, _, body = section.partition("]\n")
        kind, keep = head.rsplit(" ", 1)
        pools[kind] = Pool([" ".join(entry.split()) for entry in body.strip().split(parted)], int(keep))
    return pools


def sloppy(rng: random.Random, text: str) -> str:
    """The text as people type it: often as it is, else without a capital, without its mark, or all in small letters."""
    draw = rng.random()
    if draw < 0.6:
        return text
    if draw < 0.72:
        return text.rstrip("?.!")
    if '"' in text:
        return text
    return lower_first(text) if draw < 0.82 else text.lower().rstrip("?.!")


def careless(rng: random.Random, text: str) -> str:
    """The text as people type it, now and then with a polite word before or after it."""
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
