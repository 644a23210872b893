"""What is wrong with JSON that a client sent: why it cannot be read, and where it holds half a surrogate pair.

JSON, YAML and the arguments of a command can contain half a surrogate pair, although it is no character: UTF-8 cannot hold it, so
that no tokenizer reads it, no database stores it and no response repeats it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

_HOLDERS = (str, dict, list)
_MAX_NAME = 80  # characters of a key that an error repeats


def unusable_json(error: BaseException) -> str:
    """What is wrong with a text that json.loads could not read, as the rest of a sentence: "is nested too deeply".

    Args:
        error: what json.loads raised.
    """
    if isinstance(error, json.JSONDecodeError):
        return f"is not valid JSON: {error.msg} at character {error.pos + 1}"
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8 text"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, ValueError):  # Python reads no longer numbers from a text
        return f"has a number with more than {sys.get_int_max_str_digits()} digits"
    return "cannot be read"


def half_surrogate(value: Any) -> tuple[str, str] | None:
    """Looks for half a surrogate pair in a parsed document, in its keys and in its texts.

    Returns:
        The place, such as messages[0].content, empty for the document itself, and a sentence without a full stop. None for a
        document without one.
    """
    # Paths are chains of (path, step): made into text for the one place that is told. No recursion: JSON may be nested deeply.
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(value, ())]
    while waiting:
        value, path = waiting.pop()
        if isinstance(value, str):
            if (position := _position(value)) is not None:
                return _place(path), f"whole Unicode characters are allowed, at {position} there is half a surrogate pair"
        elif isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(key, str) and (position := _position(key)) is not None:
                    return _place((path, key)), f"the name of this field has half a surrogate pair at {position}"
                if isinstance(inner, _HOLDERS):
                    waiting.append((inner, (path, key)))
        elif isinstance(value, list):
            waiting += [(inner, (path, index)) for index, inner in enumerate(value) if isinstance(inner, _HOLDERS)]
    return None


def escaped(text: str) -> str:
    """The text with half surrogate pairs written as \\udXXX, so that it can be sent."""
    return text.encode(errors="backslashreplace").decode()


def _position(text: str) -> int | None:
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def _place(path: tuple[Any, ...]) -> str:
    steps: list[str] = []
    while path:
        path, step = path
        steps.append(f"[{step}]" if isinstance(step, int) else f".{escaped(str(step))[:_MAX_NAME]}")
    return "".join(reversed(steps)).removeprefix(".")
