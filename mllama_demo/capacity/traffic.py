"""Who asks how often, and how long questions and answers are."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from mllama_demo.errors import ConfigError

# The standard deviation of the logarithm of a length: two thirds of all are within a factor of 1.8 of the median.
_SPREAD = 0.6


@dataclass(frozen=True)
class Traffic:
    """A population of visitors. Their questions arrive independently of each other (a Poisson process).

    Attributes:
        people: How many visitors there are at a time.
        questions_per_minute: Of each visitor, on average.
        prompt_tokens: Of a question with its conversation, on average.
        answer_tokens: Of an answer, on average.
        images: The share of the questions that come with an image, from 0 to 1.
        first_token_s: Nineteen of twenty first tokens shall come within so many seconds.
        patience_s: How long a visitor waits for a place; the queue is as long as can be served in that time.
    """

    people: int = 0
    questions_per_minute: float = 1.0
    prompt_tokens: int = 200
    answer_tokens: int = 120
    images: float = 0.5
    first_token_s: float = 10.0
    patience_s: float = 60.0

    @property
    def questions_per_second(self) -> float:
        return self.people * self.questions_per_minute / 60

    def of(self, people: int) -> Traffic:
        """The same habits with another number of visitors."""
        return replace(self, people=people)


_LIMITS: dict[str, tuple[float, float]] = {
    "people": (1, 10_000_000),
    "questions_per_minute": (0.001, 60),
    "prompt_tokens": (1, 131_072),
    "answer_tokens": (1, 131_072),
    "images": (0, 1),
    "first_token_s": (0.01, 3600),
    "patience_s": (1, 3600),
}


def parse_traffic(text: str) -> Traffic:
    """Reads "people=200,questions_per_minute=1.5". Every name is an attribute of Traffic; what is left out has its default.

    Raises:
        ConfigError: Names what is wrong and what is allowed.
    """
    kinds = {field.name: field.type for field in fields(Traffic)}
    values: dict[str, float] = {}
    for part in text.split(","):
        name, equals, written = (word.strip() for word in part.partition("="))
        if name not in kinds or not equals:
            raise ConfigError(f"--traffic takes NAME=NUMBER of {', '.join(kinds)}, separated by commas, got {part.strip()!r}.")
        if name in values:
            raise ConfigError(f"--traffic has {name} twice.")
        whole, (least, most) = kinds[name] == "int", _LIMITS[name]
        try:
            value = int(written) if whole else float(written)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            kind = "a whole number" if whole else "a number"
            raise ConfigError(f"--traffic: {name} must be {kind} from {least:g} to {most:,}, got {written!r}.")
        values[name] = value
    return Traffic(**values)  # type: ignore[arg-type]  # int where the field is int


@dataclass(frozen=True)
class Arrival:
    """A question. at_s: seconds since the start. prompt_tokens and answer_tokens: at least 1. person: who asks."""

    at_s: float
    prompt_tokens: int
    answer_tokens: int
    has_image: bool
    person: int


def draw_arrivals(traffic: Traffic, *, max_prompt: int, max_answer: int, seed: int) -> Iterator[Arrival]:
    """Draws questions without an end.

    Args:
        max_prompt, max_answer: longer prompts and answers are cut to so many tokens.
        seed: the same seed draws the same questions.
    """
    draw = random.Random(seed)
    at_s = 0.0
    while True:
        at_s += draw.expovariate(traffic.questions_per_second)
        prompt = _length(draw, traffic.prompt_tokens, max_prompt)
        answer = _length(draw, traffic.answer_tokens, max_answer)
        yield Arrival(at_s, prompt, answer, draw.random() < traffic.images, draw.randrange(traffic.people))


def _length(draw: random.Random, mean: float, most: int) -> int:
    """A log-normal length with the given mean."""
    return min(most, max(1, round(draw.lognormvariate(math.log(mean) - _SPREAD**2 / 2, _SPREAD))))
