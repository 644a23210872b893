"""What --help, the reference and the sentences about wrong values say of an option."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

from mllama_demo.config.settings import Settings


def allowed_values(name: str) -> str:
    """What the option `name` takes, in words: "a whole number from 1 to 64"."""
    field = Settings.model_fields[name]
    limits = {key: getattr(m, key) for m in field.metadata for key in ("ge", "le", "min_length", "max_length") if hasattr(m, key)}
    if words := _extra(name)["allowed"]:
        return words
    if field.annotation is bool:
        return "true or false"
    if get_origin(field.annotation) is Literal:
        return " or ".join(get_args(field.annotation))
    if field.annotation is Path:
        return "a path"
    if field.annotation is str:
        return f"text of {limits.get('min_length', 0)} to {limits['max_length']} characters"
    low, high = (int(x) if x == int(x) else x for x in (limits["ge"], limits["le"]))
    return f"{'a whole number' if field.annotation is int else 'a number'} from {low} to {high}"


def group(name: str) -> str:
    """The heading that the option `name` has in --help."""
    return _extra(name)["group"]


def _extra(name: str) -> dict[str, Any]:
    return cast("dict[str, Any]", Settings.model_fields[name].json_schema_extra)
