"""Makes Markdown tables from JSON schemas and docstrings, for write_reference.py.

What a table says about a field is the field's description, or the line about it in the `Attributes:` list of the class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

Schema = dict[str, Any]


# --- Markdown --------------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[_cell(text) for text in row] for row in rows]
    return ["", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)), ""]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def anchor(name: str) -> str:
    """The anchor of a heading, as MkDocs and GitHub make it."""
    return re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-")


# --- descriptions ----------------------------------------------------------------------------------------------------------


def summary(docstring: str) -> str:
    """A docstring without its lists of arguments and attributes."""
    return re.split(r"\n\s*(?:Attributes|Args|Returns|Raises|Yields):\n", f"\n{docstring}\n")[0].strip()


def attributes(docstring: str) -> dict[str, str]:
    """What the `Attributes:` or `Args:` list of a docstring says about each name."""
    found: dict[str, str] = {}
    block = re.search(r"(?:Attributes|Args):\n((?:[ ]+\S.*(?:\n|$)|\n(?=[ ]))+)", docstring)
    for entry in re.findall(r"^ {4}(\w.*(?:\n {5,}.*)*)", block[1] if block else "", re.MULTILINE):
        names, _, text = " ".join(entry.split()).partition(": ")
        found |= {re.sub(r" \(.*\)|`", "", name): text for name in names.split(", ")}
    return found


# --- schemas ---------------------------------------------------------------------------------------------------------------

_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}


def kind(schema: Schema, links: dict[str, str]) -> str:
    """The values that a JSON schema allows, in words. links: the headings of the schemas that have a table of their own."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{links[name]}](#{anchor(links[name])})" if name in links else name
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return " or ".join(map(code, schema["enum"]))
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(kind(option, links) for option in options))
    type_ = schema.get("type")
    if type_ == "array" and "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: {', '.join(kind(item, links) for item in schema['prefixItems'])}"
    if type_ == "array":
        return f"list{_range(schema, 'minItems', 'maxItems')} of {kind(schema.get('items', {}), links)}"
    if type_ == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {kind(schema['additionalProperties'], links)}"
    if type_ == "object" and "patternProperties" in schema:
        return f"object of {kind(next(iter(schema['patternProperties'].values())), links)}"
    if type_ == "string" and schema.get("format") == "date-time":
        return "date and time"
    if type_ == "string":
        size = _range(schema, "minLength", "maxLength")
        return f"text{size} character{'' if size.endswith(' 1') else 's'}" if size else "text"
    return _WORDS.get(str(type_), str(type_ or "any value")) + _numbers(schema)


def _numbers(schema: Schema) -> str:
    if isinstance(below := schema.get("exclusiveMaximum"), int):
        schema = {**schema, "maximum": below - 1}
    return _range(schema, "minimum", "maximum").replace(" of at", ", at").replace(" of ", " from ")


def _range(schema: Schema, low: str, high: str) -> str:
    if low in schema and high in schema:
        return f" of {number(schema[low])} to {number(schema[high])}"
    if high in schema:
        return f" of at most {number(schema[high])}"
    return f" of at least {number(schema[low])}" if schema.get(low) else ""


def number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.10g}"


def fields(schema: Schema, links: dict[str, str], *, sampling: bool = False) -> list[str]:
    """A table of the properties of an object.

    Args:
        schema: The JSON schema of the object; its description is the docstring of the class.
        links: The headings of the schemas that have a table of their own.
        sampling: Whether the sampling values have the ranges and meanings of sampling.REQUEST_BOUNDS.
    """
    from mllama_demo.sampling import REQUEST_BOUNDS

    meanings = attributes(schema.get("description", ""))
    rows = []
    for name, one in schema["properties"].items():
        allowed, meaning = kind(one, links), one.get("description") or meanings.get(name, "")
        if sampling and name in REQUEST_BOUNDS:
            limits = f"from {number(REQUEST_BOUNDS[name].minimum)} to {number(REQUEST_BOUNDS[name].maximum)}"
            allowed = re.sub(r"\bnumber\b(?! from|, at)", f"number {limits}", allowed)
            meaning = meaning or REQUEST_BOUNDS[name].help + "."
        simple = "default" in one and not isinstance(one["default"], dict)
        default = "required" if name in schema.get("required", ()) else code(one["default"]) if simple else ""
        rows.append([f"`{name}`", allowed, default, re.sub(r"\bNone\b", "null", meaning[:1].upper() + meaning[1:])])
    return table(["key", "value", "default", "meaning"], rows)


def models(classes: dict[str, Any], known: Sequence[str] = (), *, sampling: bool = True) -> list[str]:
    """A heading and a table for each class, and for each class that one of them has inside.

    Args:
        classes: Pydantic models and dataclasses, by their headings.
        known: Names of classes that have a table elsewhere on the page.
        sampling: See fields.
    """
    from pydantic import TypeAdapter

    schemas: dict[str, Schema] = {}
    for heading, cls in classes.items():
        whole = TypeAdapter(cls).json_schema()
        inner = whole.pop("$defs", {})
        schemas |= {heading: inner.pop(cls.__name__) if "$ref" in whole else whole} | inner
    schemas = {name: schema for name, schema in schemas.items() if "properties" in schema and name not in known}
    links = {name: name.lstrip("_") for name in [*schemas, *known]}
    lines = []
    for name, schema in schemas.items():
        text = summary(schema.get("description", ""))
        lines += [f"### {links[name]}", "", text, *fields(schema, links, sampling=sampling)]
    return lines
