"""Reads a scenario and its images from a YAML file. An error message names the line or the step of the first mistake.

Knows no model, no web and no recording.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.config.settings import Settings
from mllama_demo.config.yaml_file import parse_mapping, read_file
from mllama_demo.errors import BadRequest, ConfigError, ImageError, NotFound
from mllama_demo.images.loading import ImageLimits, LoadedImage, load_image, size_text
from mllama_demo.present.expectation import Expectation
from mllama_demo.sampling import SamplingParams

MAX_BYTES, MAX_STEPS = 2**18, 50
TIME_LIMIT_S = 60.0
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}\Z")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Parameters(_Model):
    """Sampling values of one step. A missing value is the deployment's. SamplingParams checks the bounds."""

    temperature: float | None = Field(default=None, strict=False)
    top_p: float | None = Field(default=None, strict=False)
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int | None = None


class Step(_Model):
    """One question to the model.

    Attributes:
        image: a path relative to the scenario's file.
        continues: whether the step continues the conversation of the step before and, without an image of its own, keeps the
            image of that step. Every other step begins a new conversation.
    """

    prompt: str = Field(min_length=1, max_length=4000)
    title: str = Field("", max_length=120)
    image: str | None = Field(None, min_length=1, max_length=400)
    continues: bool = False
    parameters: Parameters = Parameters()
    time_limit_s: float | None = Field(None, ge=1, le=3600, strict=False, description="Instead of the scenario's.")
    notes: str = Field("", max_length=4000)
    expect: Expectation | None = None


class Script(_Model):
    """The content of the file.

    Attributes:
        needs_large_model: whether the embedded checkpoint is too small for this scenario.
        image: the image of each step that begins a conversation and has no key `image`. A step without image has `image: null`.
        time_limit_s: from asking a step to the end of its answer. After this time the page shows the recorded answer.
    """

    title: str = Field(min_length=1, max_length=120)
    description: str = Field("", max_length=1000)
    model: str = Field("", max_length=120, description="The model that it was made for, in words.")
    needs_large_model: bool = False
    image: str | None = Field(None, min_length=1, max_length=400)
    time_limit_s: float = Field(TIME_LIMIT_S, ge=1, le=3600, strict=False)
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MAX_STEPS, strict=False)


@dataclass(frozen=True)
class Scenario:
    """A checked script with its images.

    Attributes:
        name: the name of the file without suffix.
        samplings: the sampling values of each step.
        images: the image that the model sees at each step, or None.
    """

    name: str
    path: Path
    script: Script
    samplings: tuple[SamplingParams, ...]
    images: tuple[LoadedImage | None, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.script.steps

    def time_limit_s(self, index: int) -> float:
        """Seconds from asking step `index` to the end of its answer."""
        own = self.steps[index].time_limit_s
        return self.script.time_limit_s if own is None else own

    def image_bytes(self, digest: str) -> bytes:
        """The file of one of the images, for GenerationService. Raises NotFound."""
        for image in self.images:
            if image is not None and image.digest == digest:
                return image.data
        raise NotFound("There is no such picture in this scenario.")

    def conversation_start(self, index: int) -> int:
        """Index of the step that begins the conversation of step `index`."""
        while self.steps[index].continues:
            index -= 1
        return index

    def conversation(self, index: int, answers: dict[int, str]) -> Conversation:
        """The conversation that ends with the question of step `index`.

        Args:
            answers: the answers to earlier steps, by index.

        Raises:
            BadRequest: an earlier step of the conversation has no answer.
        """
        first = self.conversation_start(index)
        conversation = Conversation(title=self.script.title)
        for number in range(first, index + 1):
            image = self.images[number] if number == first or self.steps[number].image else None
            ref = None if image is None else ImageRef.of(image)
            conversation = conversation.add(Message("user", self.steps[number].prompt.strip(), ref))
            if number < index:
                if number not in answers:
                    raise BadRequest(f"Step {index + 1} goes on from step {number + 1}, which was not asked yet; go back to it.")
                conversation = conversation.add(Message("assistant", answers[number]))
        return conversation

    def fingerprint(self, index: int) -> str:
        """Hash of everything that the answer to step `index` depends on: the questions so far, their images and parameters."""
        parts = []
        for number in range(self.conversation_start(index), index + 1):
            image = self.images[number]
            sampling = asdict(self.samplings[number])
            parts.append([self.steps[number].prompt.strip(), image.digest if image else None, sampling])
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def names(folder: Path) -> list[str]:
    """The sorted names of the scenarios in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml") if NAME.match(path.stem)) if folder.is_dir() else []


def find(name: str, settings: Settings) -> Path:
    """The file of `name`, which is a path or the name of one of the deployment's scenarios. Raises ConfigError."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name).expanduser()
    known = names(settings.scenarios_dir)
    if name in known:
        return settings.scenarios_dir / f"{name}.yaml"
    close = difflib.get_close_matches(name, known, n=1)
    there = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'} in {settings.scenarios_dir}."
    raise ConfigError(f"There is no scenario {name[:80]!r}: {there}")


def read_scenario(path: Path, settings: Settings) -> Scenario:
    """The scenario in a YAML file. Raises ConfigError with the file and the line or step of the first mistake."""
    where = f"The scenario {path}"
    content, lines = _read(path, where)
    try:
        script = Script.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{where}{_line(first['loc'], lines)}: {_place(first['loc'])}{_problem(first)}.") from None
    samplings, images = [], []
    for index, step in enumerate(script.steps):
        place = f"{where}{_line(('steps', index), lines)}: step {index + 1}"
        if step.continues and index == 0:
            raise ConfigError(f"{place} has `continues`, but there is no step before it.")
        given = {key: value for key, value in step.parameters.model_dump().items() if value is not None}
        try:
            samplings.append(SamplingParams(**{**asdict(settings.sampling), **given}))
            inherits = "image" not in step.model_fields_set and not step.continues
            source = script.image if inherits else step.image
            before = images[-1] if step.continues else None
            images.append(_open(path.parent, source, settings.image_limits) if source else before)
        except BadRequest as error:
            raise ConfigError(f"{place}: {error}") from None
    return Scenario(path.stem, path, script, tuple(samplings), tuple(images))


def _read(path: Path, where: str) -> tuple[Any, dict[tuple[Any, ...], int]]:
    """The content, and the line number of each key and list element by its location, such as ("steps", 0, "prompt")."""
    if not path.is_file():
        raise ConfigError(f"{where} is no file.")
    data = read_file(path, where, MAX_BYTES)
    content = parse_mapping(data, where, "with title and steps")
    node = yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
    lines: dict[tuple[Any, ...], int] = {}
    _number(node, (), lines)
    return content, lines


def _number(node: Any, loc: tuple[Any, ...], lines: dict[tuple[Any, ...], int]) -> None:
    if loc in lines or len(loc) > 6:  # an alias that contains itself
        return
    lines[loc] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _number(value, (*loc, key.value), lines)
            lines[(*loc, key.value)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _number(value, (*loc, index), lines)


def _line(loc: tuple[Any, ...], lines: dict[tuple[Any, ...], int]) -> str:
    while loc and loc not in lines:
        loc = loc[:-1]
    return f", line {lines[loc]}" if loc in lines else ""


def _place(loc: tuple[Any, ...]) -> str:
    if len(loc) > 1 and loc[0] == "steps":
        loc = (f"step {loc[1] + 1}", *loc[2:])
    return "".join(f"{part} " for part in loc)


def _problem(error: Any) -> str:
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "extra_forbidden":
        return "is no key of a scenario; see docs/presenting.md for those there are"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return f"is wrong: {context.get('error', error['msg'])}"
    return f"is wrong ({error['msg'][:1].lower()}{error['msg'][1:]}), got {error['input']!r:.80}"


def _open(folder: Path, source: str, limits: ImageLimits) -> LoadedImage:
    path = folder / Path(source)
    try:
        if not path.is_file():  # a pipe would be waited for, and a device never ends
            raise ImageError(f"the image {path} is no file; a path relative to the scenario is allowed.")
        if path.stat().st_size > limits.max_bytes:
            raise ImageError(f"the image {path} is too large; at most {size_text(limits.max_bytes)} are allowed.")
        return load_image(path.read_bytes(), path.name, limits)
    except (OSError, ValueError) as error:
        raise ImageError(f"the image {source} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
