"""A file of questions, JSONL or YAML, becomes questions that are checked, and lines that cannot be asked.

Knows neither backends nor images: what an image is called stays as it is written. A line that is wrong spoils no other.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mllama_demo.config.yaml_file import UniqueKeyLoader
from mllama_demo.errors import BadRequest, ConfigError
from mllama_demo.sampling import SamplingParams

SAMPLING_KEYS = ("temperature", "top_p", "top_k", "max_tokens", "seed", "stop")
KEYS = ("prompt", "image", *SAMPLING_KEYS)
MAX_AT_ONCE = 1000


@dataclass(frozen=True)
class Question:
    """One prompt to answer. line: where it stands in the file, from 1. image: a path or an address as written, None for none.
    sampling: with the deployment's values where the line has none; a seed of None is one to draw."""

    line: int
    prompt: str
    image: str | None
    sampling: SamplingParams


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be asked. problem: a sentence that says what is allowed."""

    line: int
    problem: str


@dataclass(frozen=True)
class Batch:
    """at_once: of every round through all lines, how many are asked at the same time; empty where the file does not say."""

    lines: tuple[Question | BadLine, ...]
    at_once: tuple[int, ...] = ()


def read_batch(path: Path, defaults: SamplingParams) -> Batch:
    """The questions in path: JSON objects, one a line (.jsonl), or in YAML a list of mappings, by itself or under `prompts`.

    defaults: for what a line leaves out. Raises ConfigError for a file that cannot be read as a whole.
    """
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".yaml", ".yml"):
        raise ConfigError(f"The batch {path} must be a .jsonl, .yaml or .yml file.")
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ConfigError(f"The batch {path} cannot be read: {error.strerror}.") from None
    found, at_once = (_from_jsonl(content), ()) if kind == ".jsonl" else _from_yaml(path, content)
    lines = tuple(_checked(line, entry, defaults) for line, entry in found)
    if not lines:
        raise ConfigError(f"The batch {path} has no prompts.")
    return Batch(lines, at_once)


# --- files ---------------------------------------------------------------------------------------------------------------

_Found = Iterator[tuple[int, Any]]  # line number and what stands there; a BadRequest where that cannot be read


def _from_jsonl(content: bytes) -> _Found:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
        except UnicodeDecodeError:
            yield number, BadRequest("It is not UTF-8 text.")
        except json.JSONDecodeError as error:
            yield number, BadRequest(f"It is not valid JSON: {error.msg} at character {error.pos + 1}.")
        except (RecursionError, ValueError) as error:  # ValueError: a number of more digits than Python reads
            yield number, BadRequest(f"It is not usable JSON: {error}.")
        except BadRequest as error:
            yield number, error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise BadRequest(f"{key!r} is there twice.")
    return dict(pairs)


def _from_yaml(path: Path, content: bytes) -> tuple[_Found, tuple[int, ...]]:
    """Node by node, so that every entry has its line number and a broken one can be left out."""
    try:
        loader = UniqueKeyLoader(content)
        root = loader.get_single_node()
        at_once: tuple[int, ...] = ()
        if isinstance(root, yaml.MappingNode):
            parts: dict[str, yaml.Node] = {}
            for key, value in root.value:
                if key.value not in ("prompts", "at_once") or key.value in parts:
                    raise ConfigError(f"The batch {path} takes the keys prompts and at_once, once each, not {key.value!r:.80}.")
                parts[key.value] = value
            if "at_once" in parts:
                at_once = check_at_once(loader.construct_object(parts["at_once"], deep=True), str(path))
            root = parts.get("prompts")
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a date that does not exist
        raise ConfigError(f"The batch {path} is not valid YAML{_problem(error)}.") from None
    if not isinstance(root, yaml.SequenceNode):
        raise ConfigError(f"The batch {path} must be a list of prompts, or a mapping with that list under `prompts`.")

    def entries(nodes: list[yaml.Node]) -> _Found:
        for node in nodes:
            try:
                entry = loader.construct_object(node, deep=True)
            except (yaml.YAMLError, ValueError, RecursionError) as error:
                entry = BadRequest(f"It is not valid YAML{_problem(error)}.")
            yield node.start_mark.line + 1, entry

    return entries(root.value), at_once


def _problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return f"{place}: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"


def check_at_once(value: Any, origin: str) -> tuple[int, ...]:
    """A number or a list of numbers, each a round through the batch; raises ConfigError. origin: where it is from."""
    numbers = value if isinstance(value, list) else [value]
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_AT_ONCE for n in numbers):
        raise ConfigError(f"at_once must be one or more whole numbers from 1 to {MAX_AT_ONCE}, got {value!r} ({origin}).")
    return tuple(numbers)


# --- lines ---------------------------------------------------------------------------------------------------------------


def _checked(line: int, entry: Any, defaults: SamplingParams) -> Question | BadLine:
    try:
        if isinstance(entry, BadRequest):
            raise entry
        return _question(line, entry, defaults)
    except BadRequest as error:
        return BadLine(line, str(error))


def _question(line: int, entry: Any, defaults: SamplingParams) -> Question:
    if not isinstance(entry, Mapping):
        raise BadRequest(f"It must be a mapping with a prompt, got {entry!r:.80}.")
    for key in entry:
        if key not in KEYS:
            close = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(KEYS)}."
            raise BadRequest(f"It has an unknown key {key!r}: {hint}")
    given = {key: value for key, value in entry.items() if value is not None}
    prompt, image = given.pop("prompt", ""), given.pop("image", None)
    if not isinstance(prompt, str) or not (prompt.strip() or image):
        raise BadRequest(f"prompt must be text, got {prompt!r:.80}.")
    if image is not None and (not isinstance(image, str) or not image.strip()):
        raise BadRequest(f"image must be a path, an http, https or data URL, or left out, got {image!r:.80}.")
    if isinstance(stop := given.get("stop", []), str):
        stop = [stop]
    if not isinstance(stop, list):
        raise BadRequest(f"stop must be a list of strings, got {stop!r:.80}.")
    sampling = replace(defaults, **{**given, "stop": tuple(stop)})
    return Question(line, prompt, image, sampling)
