"""Reads a batch, a JSONL or YAML file, into checked questions. A line with a mistake does not affect the other lines.

Knows no backend and opens no image.
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
from mllama_demo.runtime.json_input import half_surrogate, unusable_json
from mllama_demo.sampling import SamplingParams

SAMPLING_KEYS = ("temperature", "top_p", "top_k", "max_tokens", "seed", "stop")
KEYS = ("prompt", "image", *SAMPLING_KEYS)
MAX_CONCURRENCY = 1000


@dataclass(frozen=True)
class Question:
    """One prompt to answer.

    Attributes:
        line: line number in the file, from 1.
        image: a path or URL as it stands in the file.
        sampling: a value that the line does not have is the deployment's. A seed of None is drawn later.
    """

    line: int
    prompt: str
    image: str | None
    sampling: SamplingParams


@dataclass(frozen=True)
class InvalidLine:
    """A line that cannot be asked. `problem` is a sentence that says what is allowed."""

    line: int
    problem: str


@dataclass(frozen=True)
class Batch:
    """The lines of a file. `concurrency` has, for each round through all lines, how many questions are asked at the same time."""

    lines: tuple[Question | InvalidLine, ...]
    concurrency: tuple[int, ...] = ()


def read_batch(path: Path, defaults: SamplingParams) -> Batch:
    """Reads one JSON object a line (.jsonl), or a YAML list of mappings, which may be under the key `prompts`.

    Args:
        defaults: the sampling values that a line leaves out.

    Raises:
        ConfigError: no line of the file can be read.
    """
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".yaml", ".yml"):
        raise ConfigError(f"The batch {path} must be a .jsonl, .yaml or .yml file.")
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ConfigError(f"The batch {path} cannot be read: {error.strerror}.") from None
    entries, concurrency = (_from_jsonl(content), ()) if kind == ".jsonl" else _from_yaml(path, content)
    lines = tuple(_checked(line, entry, defaults) for line, entry in entries)
    if not lines:
        raise ConfigError(f"The batch {path} has no prompts.")
    return Batch(lines, concurrency)


# --- files ---------------------------------------------------------------------------------------------------------------

_Entries = Iterator[tuple[int, Any]]  # line number and content, or a BadRequest in place of content that cannot be read


def _from_jsonl(content: bytes) -> _Entries:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
        except (RecursionError, ValueError) as error:
            yield number, BadRequest(f"It {unusable_json(error)}.")
        except BadRequest as error:
            yield number, error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise BadRequest(f"{key!r} is there twice.")
    return dict(pairs)


def _from_yaml(path: Path, content: bytes) -> tuple[_Entries, tuple[int, ...]]:
    """Constructs the entries one by one, so that each has its line number and a mistake affects one entry only."""
    try:
        loader = UniqueKeyLoader(content)
        root = loader.get_single_node()
        concurrency: tuple[int, ...] = ()
        if isinstance(root, yaml.MappingNode):
            parts: dict[str, yaml.Node] = {}
            for key, value in root.value:
                name = "concurrency" if key.value == "at_once" else key.value  # at_once is the former name
                if name not in ("prompts", "concurrency") or name in parts:
                    raise ConfigError(f"The batch {path} takes the keys prompts and concurrency, once each, not {name!r:.80}.")
                parts[name] = value
            if "concurrency" in parts:
                concurrency = check_concurrency(loader.construct_object(parts["concurrency"], deep=True), str(path))
            root = parts.get("prompts")
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a date that does not exist
        raise ConfigError(f"The batch {path} is not valid YAML{_problem(error)}.") from None
    if not isinstance(root, yaml.SequenceNode):
        raise ConfigError(f"The batch {path} must be a list of prompts, or a mapping with that list under `prompts`.")

    def entries(nodes: list[yaml.Node]) -> _Entries:
        for node in nodes:
            try:
                entry = loader.construct_object(node, deep=True)
            except (yaml.YAMLError, ValueError, RecursionError) as error:
                entry = BadRequest(f"It is not valid YAML{_problem(error)}.")
            yield node.start_mark.line + 1, entry

    return entries(root.value), concurrency


def _problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return f"{place}: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"


def check_concurrency(value: Any, origin: str) -> tuple[int, ...]:
    """A number or a list of numbers, one for each round, as a tuple. Raises ConfigError with `origin`, the option or the file."""
    numbers = value if isinstance(value, list) else [value]
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_CONCURRENCY for n in numbers):
        raise ConfigError(f"concurrency must be one or more whole numbers from 1 to {MAX_CONCURRENCY}, got {value!r} ({origin}).")
    return tuple(numbers)


# --- lines ---------------------------------------------------------------------------------------------------------------


def _checked(line: int, entry: Any, defaults: SamplingParams) -> Question | InvalidLine:
    try:
        if isinstance(entry, BadRequest):
            raise entry
        if found := half_surrogate(entry):
            raise BadRequest(": ".join(filter(None, found)) + ".")
        return _question(line, entry, defaults)
    except BadRequest as error:
        return InvalidLine(line, str(error))


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
