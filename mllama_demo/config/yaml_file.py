"""Reads a YAML file with one mapping. Refuses a key that is given twice, and names line and column of an error."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from mllama_demo.errors import ConfigError
from mllama_demo.images.loading import size_text

# What a file has in place of a mapping, for the error message.
_KINDS = {type(None): "nothing", list: "a list", str: "text", int: "a number", float: "a number"}


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that is given twice; PyYAML would take the last one without a warning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, _ in reversed(node.value):
            if isinstance(key, yaml.ScalarNode) and keys[key.value] > 1:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is there twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def read_file(path: Path, what: str, max_bytes: int | None = None) -> bytes:
    """Reads a file.

    Args:
        path: the file.
        what: the file in words, with its path, for the error message.
        max_bytes: a larger file is refused.

    Raises:
        ConfigError: the file cannot be read or is too large.
    """
    try:
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise ConfigError(f"{what} is larger than {size_text(max_bytes)}.")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what} cannot be read: {error.strerror}.") from None


def parse_mapping(data: bytes, what: str, kind: str, may_be_empty: bool = False) -> dict[Any, Any]:
    """Parses YAML in UTF-8.

    Args:
        data: the content of the file.
        what: the file in words, for the error message.
        kind: what the mapping has, for the error message.
        may_be_empty: an empty file counts as an empty mapping.

    Raises:
        ConfigError: the file is not valid YAML or is no mapping.
    """
    try:
        content = yaml.load(data.decode("utf-8"), Loader=UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a date that does not exist
        mark = getattr(error, "problem_mark", None)
        position = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{what} is not valid YAML{position}: {problem}.") from None
    content = {} if content is None and may_be_empty else content
    if not isinstance(content, dict):
        found = _KINDS.get(type(content), "something else")
        raise ConfigError(f"{what} must be a mapping {kind}, got {found}.")
    return content
