"""Reads a YAML file that a person wrote: one mapping, no key twice, and an error that says where the trouble is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mllama_demo.errors import ConfigError
from mllama_demo.images.loading import size_text


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, _ in reversed(node.value):
            if keys.count(key.value) > 1:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is there twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def read_file(path: Path, what: str, max_bytes: int | None = None) -> bytes:
    """The content of a file. what: it in words, with its path. Raises ConfigError for one that is unreadable or too large."""
    try:
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise ConfigError(f"{what} is larger than {size_text(max_bytes)}.")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what} cannot be read: {error.strerror}.") from None


def parse_mapping(data: bytes, what: str, kind: str, may_be_empty: bool = False) -> dict[Any, Any]:
    """The mapping in a file, UTF-8. what: the file in words; kind: what it maps. Raises ConfigError."""
    try:
        content = yaml.load(data.decode("utf-8"), Loader=UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a date that does not exist
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{what} is not valid YAML{place}: {problem}.") from None
    content = {} if content is None and may_be_empty else content
    if not isinstance(content, dict):
        raise ConfigError(f"{what} must be a mapping {kind}, got {type(content).__name__}.")
    return content
