"""LaTeX formulas in Markdown: finds them, and renders them as MathML.

A formula stands between `$…$`, `$$…$$`, `\\(…\\)` or `\\[…\\]`. The browser itself draws MathML, without a script, a font or a
request. A formula that cannot be rendered is shown as it was written.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape, unescape
from typing import Any
from xml.etree.ElementTree import Element

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

MAX_FORMULA_CHARACTERS = 4000
MAX_DEPTH = 80  # of braces: latex2mathml and the walk over its result are recursive
_CLOSING = {"$": "$", "$$": "$$", "\\(": "\\)", "\\[": "\\]"}
_DISPLAYED = ("$$", "\\[")

# Elements of MathML with the number of their children where it is fixed. An element that is not here is refused.
_CHILDREN: dict[str, int | None] = {
    **dict.fromkeys(("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mstyle", "msqrt", "mpadded", "mphantom", "menclose")),
    **dict.fromkeys(("mtable", "mtr", "mtd", "merror")),
    **{"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "msubsup": 3, "munder": 2, "mover": 2, "munderover": 3},
}
_ATTRIBUTES = {
    "accent", "columnalign", "columnlines", "columnspacing", "depth", "display", "displaystyle", "fence", "form", "height",
    "linebreak", "linethickness", "lspace", "mathbackground", "mathcolor", "mathsize", "mathvariant", "maxsize", "minsize",
    "notation", "rowlines", "rowspacing", "rspace", "scriptlevel", "stretchy", "symmetric", "voffset", "width",
}  # fmt: skip
_PLAIN_VALUE = re.compile(r"[\w#.,%+\- ]{0,60}")
_ENVIRONMENTS = {
    "align", "align*", "array", "cases", "eqnarray", "eqnarray*", "equation", "equation*", "gather", "gather*", "matrix",
    "matrix*", "pmatrix", "pmatrix*", "bmatrix", "bmatrix*", "Bmatrix", "Bmatrix*", "vmatrix", "vmatrix*", "Vmatrix", "Vmatrix*",
    "smallmatrix", "split", "substack",
}  # fmt: skip
# latex2mathml lacks these, or numbers their rows.
_SAME_ENVIRONMENT = {"aligned": "align*", "align": "align*", "alignedat": "align*", "gathered": "gather*", "gather": "gather*"}


def formula_html(latex: str, display: bool) -> str | None:
    """Renders a formula as MathML.

    Args:
        latex: the formula without its delimiters.
        display: whether the formula has a line of its own.

    Returns:
        HTML without scripts, styles and addresses; None when the formula is not LaTeX that can be rendered.
    """
    return _formula_html(latex.strip(), display)


@lru_cache(maxsize=2048)  # an answer is rendered again with every update while it is being written
def _formula_html(latex: str, display: bool) -> str | None:
    from latex2mathml.converter import convert_to_element

    if not latex or len(latex) > MAX_FORMULA_CHARACTERS or not _is_balanced(latex):
        return None
    source = re.sub(r"\\(begin|end)\{(\w+\*?)\}", lambda m: rf"\{m[1]}{{{_SAME_ENVIRONMENT.get(m[2], m[2])}}}", latex)
    if not _ENVIRONMENTS.issuperset(re.findall(r"\\(?:begin|end)\{([^}]*)\}", source)):
        return None
    try:
        math = convert_to_element(source, display="block" if display else "inline")
        html = _element_html(math, stray_ampersand="\\&" in source)
    except Exception:  # latex2mathml raises errors of many types for LaTeX that it cannot parse
        return None
    return html.replace("<math", f'<math alttext="{escape(latex)}"', 1)


def _is_balanced(latex: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)(?:\\\\)*([{}])", latex):
        depth += 1 if brace == "{" else -1
        if not 0 <= depth <= MAX_DEPTH:
            return False
    return depth == 0


def _element_html(element: Element, stray_ampersand: bool) -> str:
    """The element as HTML. Only known elements and attributes pass. Raises ValueError for what would not show the formula."""
    name = element.tag
    text = unescape(element.text or "")  # latex2mathml writes characters as entities
    if name not in _CHILDREN or _CHILDREN[name] not in (None, len(element)):
        raise ValueError(f"<{name}> with {len(element)} children")
    if (text.startswith("\\") and len(text) > 1 and name != "mtext") or (text == "&" and not stray_ampersand):
        raise ValueError(f"unknown command {text}")
    attributes = "".join(
        f' {key}="{escape(value)}"' for key, value in element.items() if key in _ATTRIBUTES and _PLAIN_VALUE.fullmatch(value)
    )
    children = "".join(_element_html(child, stray_ampersand) for child in element)
    return f"<{name}{attributes}>{escape(text)}{children}</{name}>"


# --- in Markdown ---------------------------------------------------------------------------------------------------------


def formula_plugin(markdown: MarkdownIt) -> None:
    """Adds formulas to a Markdown parser."""
    markdown.block.ruler.before("fence", "formula_block", _block_rule, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    markdown.inline.ruler.before("escape", "formula", _inline_rule)
    markdown.add_render_rule("formula", lambda _self, tokens, index, _options, _env: _token_html(tokens[index]))
    markdown.add_render_rule("formula_block", lambda _self, tokens, index, _options, _env: f"{_token_html(tokens[index])}\n")


def _token_html(token: Any) -> str:
    display = token.markup in _DISPLAYED
    html = formula_html(token.content, display)
    if html is not None:
        return html
    written = escape(token.markup + token.content + _CLOSING[token.markup])
    return f'<span class="as-written">{written}</span>' if not token.block else f'<p class="as-written" dir="auto">{written}</p>'


def _block_rule(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A displayed formula that begins a line. Its lines are not taken for headings, lists or tables."""
    if state.is_code_block(start):
        return False
    lines = [_line(state, start)]
    opening = next((mark for mark in _DISPLAYED if lines[0].startswith(mark)), None)
    if opening is None:
        return False
    closing, last, gap = _CLOSING[opening], start, 0
    lines[0] = lines[0][2:]
    has_content = bool(lines[0])
    # The last formula without a closing mark: its first line, the first line that has nothing of it, and the line at which the
    # search ended. A formula that begins inside it ends as it does. Without this note the search would begin again in each line.
    open_formulas = state.env.setdefault("open_formulas", {})
    open_from, open_gap, open_to = open_formulas.get(opening, (0, 0, 0))
    if open_from < start < open_gap - 1 and _ends_open(state, open_to, end, closing, open_gap < open_to):
        return False
    while closing not in lines[-1]:
        last += 1
        if last < end and state.isEmpty(last):
            gap = gap or (last if has_content else 0)
        elif _ends_open(state, last, end, closing, gap > 0):
            open_formulas[opening] = start, gap or last, last
            return False
        else:
            has_content = True
        lines.append(_line(state, last))
    lines[-1], _, rest = lines[-1].partition(closing)
    content = "\n".join(lines)
    if rest.strip() or not content.strip() or "\n\n" in content.strip("\n"):
        return False
    if silent:
        return True
    state.line = last + 1
    token = state.push("formula_block", "math", 0)
    token.block, token.content, token.markup, token.map = True, content, opening, [start, state.line]
    return True


def _line(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]


def _ends_open(state: StateBlock, number: int, end: int, closing: str, after_gap: bool) -> bool:
    """Whether a formula that reaches this line is no formula: it is not closed, perhaps because it is still being written."""
    if number >= end:
        return True
    if state.isEmpty(number):
        return False
    if state.sCount[number] < state.blkIndent:
        return True
    before, found, rest = _line(state, number).partition(closing)
    return bool(rest.strip()) or (after_gap and not (found and not before))


def _inline_rule(state: StateInline, silent: bool) -> bool:
    src, start = state.src, state.pos
    opening = next((mark for mark in ("$$", "$", "\\(", "\\[") if src.startswith(mark, start)), None)
    if opening is None:
        return False
    if opening == "$":
        end = _end_of_dollars(src, start, state.posMax)
    else:
        end = -1 if _is_open(state, opening) else _end_of(src, start, opening, state.posMax)
    if end < 0:
        if not opening.startswith("\\"):
            return False
        # A formula that is not closed, perhaps because it is still being written: Markdown would remove the backslash.
        if not silent:
            state.pending += opening
        state.pos = start + len(opening)
        return True
    if not silent:
        token = state.push("formula", "math", 0)
        token.content, token.markup = src[start + len(opening) : end], opening
    state.pos = end + len(_CLOSING[opening])
    return True


def _is_open(state: StateInline, opening: str) -> bool:
    """Whether the formula has no closing mark. A mark that was searched for once is not searched for again."""
    open_marks = state.env.setdefault("open_marks", {})
    src, start, limit = open_marks.get(opening, ("", 0, 0))
    if src is state.src and start <= state.pos and state.posMax <= limit:
        return True
    if _find_closing(state.src, state.pos, opening, state.posMax) >= 0:
        return False
    open_marks[opening] = state.src, state.pos, state.posMax
    return True


def _end_of(src: str, start: int, opening: str, limit: int) -> int:
    """Where the closing mark stands; -1 where the formula has no end or no content."""
    end = _find_closing(src, start, opening, limit)
    return end if end >= 0 and src[start + len(opening) : end].strip() else -1


def _find_closing(src: str, start: int, opening: str, limit: int) -> int:
    return src.find(_CLOSING[opening], start + len(opening), limit)


def _end_of_dollars(src: str, start: int, limit: int) -> int:
    """Where the `$` stands that closes a formula; -1 where the `$` at `start` is a price, a shell's variable or a lone sign."""
    if start and (src[start - 1].isalnum() or src[start - 1] in "$\\"):
        return -1
    end = start + 1
    while True:
        end = src.find("$", end, limit)
        if end < 0:
            return -1
        if src[end - 1] != "\\":
            break
        end += 1
    content, after = src[start + 1 : end], src[end + 1 : end + 4]
    if not content or content[0].isspace() or content[-1].isspace() or content[-1] in "-+*/=<>,;:.([{" or "`" in content:
        return -1
    if after[:1].isdigit() or re.match(r"[^\W\d_]{3}|\$", after):
        return -1
    is_prose = re.search(r"(?<![\\{A-Za-z])[^\W\d_]{2,}(?![A-Za-z}])", content) and not re.search(r"[\\^_={}]", content)
    return -1 if is_prose and re.search(r"\s", content) else end
