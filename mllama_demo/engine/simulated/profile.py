"""How long a device takes for a prompt, an image and a step: read from a YAML file, measured or estimated."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from mllama_demo.config.yaml_file import parse_mapping, read_file
from mllama_demo.errors import ConfigError

PROFILES = Path(__file__).with_name("profiles")
_MAX_BYTES = 100_000
SLOWNESS_PERIOD_S = 0.5  # of each value of DeviceProfile.slowness


@dataclass(frozen=True)
class DeviceProfile:
    """The timing of one instance of a model.

    Attributes:
        name: What is timed, in words.
        source: Where the times are from, in words.
        estimated: The times were computed and never measured.
        prefill_s: Seconds to read a prompt, by its tokens. Lengths in between are interpolated.
        piece_tokens: A prompt is read in pieces of so many tokens, between which the other slots decode, and its image is a piece
            of its own; 0 reads prompt and image at once.
        image_s: Seconds that an image adds to its prompt.
        image_token_s: Seconds that each token of a prompt takes longer when the prompt has an image.
        image_step_s: Seconds that a decode step takes longer when an answer in it is about an image, by the number of slots in
            it. Empty for a device whose steps always include the layers that look at an image.
        decode_s: Seconds of a decode step over sequences without tokens, by the number of slots in it. Numbers in between are
            interpolated.
        context_step_s: Seconds that a decode step takes longer for each slot in it, by each token of the longest sequence in it.
            0 for a device whose steps take the same time for every length, or where the time is not known.
        overhead_s: Seconds that the program around the model takes for each token of each slot in a step.
        slowness: How many times as long as by the other times the steps took in successive half seconds of a measurement. A
            simulation takes one value after the other, in a circle. Empty for a device that is equally fast at all times.
        instance: The type of machine; empty if it has no name.
        model: The size of the published model, "11B" or "90B"; empty for another one.
        dollars_per_hour: The price of the machine; None if it has none.
        price_source: Where the price is from, in words.
    """

    name: str
    source: str
    estimated: bool
    prefill_s: Mapping[int, float]
    decode_s: Mapping[int, float]
    image_s: float = 0.0
    image_token_s: float = 0.0
    image_step_s: Mapping[int, float] = field(default_factory=dict)
    context_step_s: float = 0.0
    piece_tokens: int = 0
    overhead_s: float = 0.0
    slowness: Sequence[float] = ()
    instance: str = ""
    model: str = ""
    dollars_per_hour: float | None = None
    price_source: str = ""

    def reading_s(self, tokens: int, has_image: bool = False) -> float:
        """Seconds to read the tokens of a prompt. Reading its image takes image_s more."""
        return interpolated(self.prefill_s, tokens) + self.image_token_s * tokens * has_image

    def step_s(self, slots: int, longest: int = 0, has_image: bool = False) -> float:
        """Seconds of a decode step.

        Args:
            slots: How many slots are in it.
            longest: The tokens of the longest sequence in it.
            has_image: An answer in it is about an image.
        """
        each = self.overhead_s + self.context_step_s * longest
        image_s = interpolated(self.image_step_s, slots) if has_image and self.image_step_s else 0.0
        return interpolated(self.decode_s, slots) + each * slots + image_s


def interpolated(table: Mapping[int, float], at: int) -> float:
    """The value of a table between its keys, linear; that of the first key below it, along the last two keys beyond the last."""
    keys = sorted(table)
    if len(keys) == 1 or at <= keys[0]:
        return table[keys[0]]
    right = min(max(1, bisect_left(keys, at)), len(keys) - 1)
    low, high = keys[right - 1], keys[right]
    return table[low] + (table[high] - table[low]) * (at - low) / (high - low)


def profile_names() -> list[str]:
    """The profiles that the program brings."""
    return sorted(file.stem for file in PROFILES.glob("*.yaml"))


def read_profile(name: str) -> DeviceProfile:
    """Reads a profile.

    Args:
        name: One of profile_names(), or the path of a YAML file.

    Raises:
        ConfigError: There is no such profile, or its file is not right.
    """
    file = PROFILES / f"{name}.yaml" if name in profile_names() else Path(name)
    if not file.is_file():
        raise ConfigError(f"There is no device profile {name!r}; there are {', '.join(profile_names())}, or name a YAML file.")
    what = f"The device profile {file}"
    return _checked(parse_mapping(read_file(file, what, _MAX_BYTES), what, "of times"), what)


def _checked(values: dict[Any, Any], what: str) -> DeviceProfile:
    known = {known.name for known in fields(DeviceProfile)}
    for name in values:
        if name not in known:
            raise ConfigError(f"{what} has {name!r}, which is none of {', '.join(sorted(known))}.")
    for name in ("name", "source", "estimated", "prefill_s", "decode_s"):
        if name not in values:
            raise ConfigError(f"{what} lacks {name}.")
    if not isinstance(values["estimated"], bool):
        raise ConfigError(f"{what}: estimated must be true or false, got {values['estimated']!r}.")
    for name in ("prefill_s", "decode_s", "image_step_s"):
        if name not in values:
            continue
        table = values[name]
        right = isinstance(table, dict) and table and all(_is_count(key) and _is_time(value) for key, value in table.items())
        if not right:
            raise ConfigError(f"{what}: {name} must map whole numbers from 1 to seconds, got {table!r}.")
        if any(table[low] > table[high] for low, high in pairwise(sorted(table))):
            raise ConfigError(f"{what}: {name} must not fall, got {table!r}.")
    if not min(values["decode_s"].values()):
        raise ConfigError(f"{what}: decode_s must be above 0, got {values['decode_s']!r}.")
    for name in ("image_s", "image_token_s", "context_step_s", "overhead_s", "dollars_per_hour"):
        if name in values and not _is_time(values[name]):
            raise ConfigError(f"{what}: {name} must be a number from 0, got {values[name]!r}.")
    if values.get("piece_tokens", 0) != 0 and not _is_count(values["piece_tokens"]):
        raise ConfigError(f"{what}: piece_tokens must be a whole number from 0, got {values['piece_tokens']!r}.")
    slowness = values.get("slowness", [])
    if not isinstance(slowness, list) or not all(_is_time(factor) and factor > 0 for factor in slowness):
        raise ConfigError(f"{what}: slowness must be a list of numbers above 0, got {slowness!r}.")
    return DeviceProfile(**values)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e6
