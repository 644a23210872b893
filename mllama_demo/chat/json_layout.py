"""The layout of answers that are JSON, such as those of a form of structured output."""

from __future__ import annotations

import json
import re

MAX_CHARACTERS = 200_000
_PIECE = re.compile(r'"(?:\\.|[^"\\])*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def laid_out_json(text: str) -> str | None:
    """Returns an answer that is one JSON object, or a list of objects, with a line for each entry.

    Only spaces and line breaks between the values change: numbers, the order of keys and repeated keys stay. JSON of several
    lines is returned as it was written.

    Args:
        text: the whole answer.

    Returns:
        None when the answer is not JSON of this kind.
    """
    text = text.strip()
    if not re.match(r"\{|\[\s*\{", text) or text[-1] not in "}]" or len(text) > MAX_CHARACTERS:
        return None
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    return text if "\n" in text else _laid_out(_PIECE.findall(text))


def _laid_out(pieces: list[str]) -> str:
    out: list[str] = []
    depth = 0
    for index, piece in enumerate(pieces):
        following = pieces[index + 1] if index + 1 < len(pieces) else ""
        if piece in "{[":
            depth += 1
            out.append(piece if following in "}]" else piece + _line_break(depth))
        elif piece in "}]":
            depth -= 1
            out.append(piece if pieces[index - 1] in "{[" else _line_break(depth) + piece)
        else:
            out.append({",": "," + _line_break(depth), ":": ": "}.get(piece, piece))
    return "".join(out)


def _line_break(depth: int) -> str:
    return "\n" + "  " * depth
