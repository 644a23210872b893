"""The sampling values of a request: bounds, defaults, labels and presets for the page, the API and the command line.

engine/token_sampler.py applies the values. This module does not import numpy, because the command line must start fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from mllama_demo.errors import BadRequest

# vLLM samples greedily below the same temperature.
GREEDY_BELOW = 1e-5
# A shorter decode has no speed: its tokens may have arrived together.
MIN_DECODE_S = 0.05


@dataclass(frozen=True)
class Bound:
    """The allowed range, the default and the texts of one sampling value.

    Attributes:
        label: The name on the page.
        hint: A few words beside the slider.
        help: What the value does, for the documentation.
    """

    label: str
    minimum: float
    maximum: float
    default: float
    step: float
    hint: str
    help: str

    def check(self, name: str, value: Any) -> None:
        """Raises BadRequest unless minimum <= value <= maximum. The message has the value and the range."""
        is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        if isinstance(value, bool) or not is_number or not self.minimum <= value <= self.maximum or (self.whole and value % 1):
            kind = "a whole number" if self.whole else "a number"
            raise BadRequest(f"{name} must be {kind} from {_plain(self.minimum)} to {_plain(self.maximum)}, got {value!r:.80}.")

    @property
    def whole(self) -> bool:
        """Whether the value must be a whole number."""
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
MAX_ANSWER_TOKENS = 131_072  # all of the context of Llama 3.2; the sliders of the pages end earlier
# Of a request that no slider has made.
REQUEST_BOUNDS = {**BOUNDS, "max_tokens": replace(BOUNDS["max_tokens"], maximum=MAX_ANSWER_TOKENS)}
MAX_STOP_STRINGS = 4
MAX_STOP_LENGTH = 64


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are sampled and where the answer ends. Raises BadRequest for the first value out of bounds.

    Attributes:
        seed: None for a random seed.
        stop: The answer ends before the first of these strings.
        ignore_eos: The model's end-of-turn token does not end the answer.
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
            bound = REQUEST_BOUNDS[name]
            bound.check(name, getattr(self, name))
            if bound.whole:
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
        """Whether the likeliest token is always chosen: top_k is 1, or a division by the temperature would overflow."""
        return self.temperature < GREEDY_BELOW or self.top_k == 1

    def top_k_within(self, limit: int | None) -> int:
        """Returns top_k, or `limit` if top_k is larger or 0 (all). `limit`: most candidates of the backend; None for no limit."""
        return self.top_k if limit is None or 0 < self.top_k <= limit else limit

    def as_greedy(self) -> SamplingParams:
        """Returns the same values at temperature 0."""
        return replace(self, temperature=0.0)


@dataclass(frozen=True)
class Preset:
    """A named set of values that the page offers."""

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
