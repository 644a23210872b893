"""The sampling values of a request: their bounds, defaults, labels and presets, for the page, the API and the command line.

engine/token_sampler.py applies the values. This module imports no numpy, because the command line reads the bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from mllama_demo.errors import BadRequest

# vLLM draws the same line.
GREEDY_BELOW = 1e-5


@dataclass(frozen=True)
class Bound:
    """The legal range of one value, its default and how a person would call it. hint: a few words beside a slider."""

    label: str
    minimum: float
    maximum: float
    default: float
    step: float
    hint: str
    help: str

    def check(self, name: str, value: Any) -> None:
        """Raises BadRequest naming the value and the range unless minimum <= value <= maximum."""
        is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        if isinstance(value, bool) or not is_number or not self.minimum <= value <= self.maximum or (self.whole and value % 1):
            kind = "a whole number" if self.whole else "a number"
            raise BadRequest(f"{name} must be {kind} from {_plain(self.minimum)} to {_plain(self.maximum)}, got {value!r}.")

    @property
    def whole(self) -> bool:
        """True for values that count something."""
        return self.step >= 1


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


BOUNDS: dict[str, Bound] = {
    "temperature": Bound("Temperature", 0.0, 2.0, 0.6, 0.05, "0 is greedy", "0 is greedy; higher is more varied"),
    "top_p": Bound("Top-p", 0.01, 1.0, 0.9, 0.01, "1 is off", "keep the likeliest tokens up to this probability; 1 is off"),
    "top_k": Bound("Top-k", 0, 200, 0, 1, "0 is off", "keep this many of the likeliest tokens; 0 is off"),
    "max_tokens": Bound("Max tokens", 1, 4096, 256, 1, "at most", "the answer ends here at the latest"),
    "seed": Bound(
        "Seed", 0, 2**32 - 1, 0, 1, "same seed, same answer; empty for a new one", "the same seed draws the same answer"
    ),
}
MAX_STOP_STRINGS = 4
MAX_STOP_LENGTH = 64


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen and when to end. Checks itself; raises BadRequest naming the first value out of bounds.

    ignore_eos: the end that the model itself says is a token like any other; the answer goes on until something else ends it.
    """

    temperature: float = BOUNDS["temperature"].default
    top_p: float = BOUNDS["top_p"].default
    top_k: int = int(BOUNDS["top_k"].default)
    max_tokens: int = int(BOUNDS["max_tokens"].default)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "top_k", "max_tokens"):
            BOUNDS[name].check(name, getattr(self, name))
            if BOUNDS[name].whole:
                object.__setattr__(self, name, int(getattr(self, name)))  # 5.0 from a slider or from JSON
        if self.seed is not None:
            BOUNDS["seed"].check("seed", self.seed)
            object.__setattr__(self, "seed", int(self.seed))
        if not isinstance(self.ignore_eos, bool):
            raise BadRequest(f"ignore_eos must be true or false, got {self.ignore_eos!r}.")
        if isinstance(self.stop, str) or not all(isinstance(s, str) for s in self.stop):
            raise BadRequest(f"stop must be a list of strings, got {self.stop!r}.")
        if len(self.stop) > MAX_STOP_STRINGS or not all(1 <= len(s) <= MAX_STOP_LENGTH for s in self.stop):
            raise BadRequest(
                f"stop takes up to {MAX_STOP_STRINGS} strings of 1 to {MAX_STOP_LENGTH} characters, got {self.stop!r}."
            )

    @property
    def greedy(self) -> bool:
        """True where no random draw is needed: top_k 1, or a temperature so low that dividing by it would overflow."""
        return self.temperature < GREEDY_BELOW or self.top_k == 1

    def top_k_within(self, limit: int | None) -> int:
        """top_k for a backend that can choose among `limit` candidates at most: a larger one, and 0 for all, become the limit.
        None is no limit."""
        return self.top_k if limit is None or 0 < self.top_k <= limit else limit

    def as_greedy(self) -> SamplingParams:
        """The same request with the likeliest token taken at every step."""
        return replace(self, temperature=0.0)


@dataclass(frozen=True)
class Preset:
    """A named set of values for the sliders."""

    name: str
    temperature: float
    top_p: float
    top_k: int


PRESETS: tuple[Preset, ...] = (
    Preset("Balanced", 0.6, 0.9, 0),
    Preset("Focused", 0.3, 0.8, 20),
    Preset("Creative", 1.0, 0.95, 0),
    Preset("Wild", 1.6, 1.0, 0),
    Preset("Tutorial: story", 1.0, 1.0, 1),
    Preset("Tutorial: describe", 0.9, 0.5, 10),
)
