"""Colours for blocks of code: the pieces of a program get CSS classes of Pygments."""

from __future__ import annotations

from functools import lru_cache
from html import escape

MAX_CHARACTERS = 50_000


def highlighted(code: str, language: str) -> str:
    """Returns code as HTML. Code in an unknown language has no colours.

    Args:
        code: the code as it was written.
        language: a name that Pygments knows, such as "python"; may be empty.
    """
    if not language or len(code) > MAX_CHARACTERS:
        return escape(code)
    return _coloured(code, language)


@lru_cache(maxsize=512)  # an answer is rendered again with every update while it is being written
def _coloured(code: str, language: str) -> str:
    from pygments import lex
    from pygments.lexers import get_lexer_by_name
    from pygments.token import STANDARD_TYPES
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return escape(code)
    pieces = []
    for kind, value in lex(code, lexer):
        name = next(STANDARD_TYPES[part] for part in reversed(kind.split()) if part in STANDARD_TYPES)
        pieces.append(f'<span class="{name}">{escape(value)}</span>' if name else escape(value))
    return "".join(pieces)
