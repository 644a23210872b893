"""Renders the text of messages as safe HTML: the answers of a model as Markdown, questions as they were typed.

Chat, stage, Explore, shared pages and exports show what a model wrote with this module. The HTML of `render_answer` has these
properties for every text:

- All of the text is visible. HTML, comments and unknown tags are text. Thinking parts are folded, not removed.
- Nothing is executed, and nothing is fetched. An image is a link to its address.
- Every block has `dir="auto"`, so that Arabic and Hebrew paragraphs run from right to left.

`web/static/rendered_text.css` styles the HTML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block.table import escapedSplit
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from mllama_demo.chat.code_highlighting import highlighted
from mllama_demo.chat.formulas import formula_plugin
from mllama_demo.chat.json_layout import laid_out_json

_FOLLOWED = re.compile(r"(https?://|mailto:)", re.IGNORECASE)
_THINKING = "think|thinking|thought|reasoning"
_THINKING_OPENS = re.compile(rf"\s*<({_THINKING})>", re.IGNORECASE)
_THINKING_CLOSES = re.compile(rf"</({_THINKING})>", re.IGNORECASE)
# Chat templates often open the thinking part in the prompt, so that the answer has the closing tag only. A tag in the middle of a
# sentence or of code is text.
_ONLY_CLOSES = re.compile(rf"^[ \t]*</({_THINKING})>|(?<!`)</({_THINKING})>(?=[ \t]*\n)", re.IGNORECASE | re.MULTILINE)
_DIRECTED = {"paragraph_open", "heading_open", "blockquote_open", "bullet_list_open", "ordered_list_open", "table_open"}


# Characters. The worst Markdown takes 50 µs a character: an imported conversation of 64 MB would take an hour.
MAX_FORMATTED, MAX_FORMATTED_PAGE = 100_000, 400_000


def render_answer(text: str, finished: bool = True) -> str:
    """Renders what a model wrote.

    Args:
        text: Markdown with formulas, perhaps with a thinking part at its start.
        finished: False while the text is being written. A thinking part without an end is open then, and a block of code
            without an end has no colours: to colour it again with every update takes longer than all else.

    Returns:
        HTML in one `<div class="rendered-text" dir="auto">`. A text above MAX_FORMATTED characters, which only an import has, is
        not formatted.
    """
    if len(text) > MAX_FORMATTED:
        return render_question(text)
    thinking, answer = split_thinking(text)
    html = "" if thinking is None else _thinking_html(thinking, is_open=answer is None and not finished)
    if answer:
        html += _answer_html(answer, finished)
    return f'<div class="rendered-text" dir="auto">{html}</div>'


def formatted_from(texts: Sequence[str]) -> int:
    """The index of the first answer of a page that is formatted. The answers from there on have MAX_FORMATTED_PAGE characters."""
    total = 0
    for index in range(len(texts) - 1, -1, -1):
        total += len(texts[index])
        if total > MAX_FORMATTED_PAGE:
            return index + 1
    return 0


def render_question(text: str) -> str:
    """Renders what a person typed, exactly as it was typed, as HTML in one `<div class="typed-text" dir="auto">`."""
    return f'<div class="typed-text" dir="auto">{escape(text)}</div>'


def split_thinking(text: str) -> tuple[str | None, str | None]:
    """Splits an answer into its thinking part and the answer proper.

    Returns:
        The thinking part without its tags, None when there is none; and the rest of the answer, None while the thinking part
        has no end yet.
    """
    opening = _THINKING_OPENS.match(text)
    if opening:
        closing = _THINKING_CLOSES.search(text, opening.end())
        if closing is None:
            return text[opening.end() :], None
        return text[opening.end() : closing.start()], text[closing.end() :]
    closing = _ONLY_CLOSES.search(text)
    if closing is None or text[: closing.start()].count("```") % 2:
        return None, text
    return text[: closing.start()], text[closing.end() :]


def _thinking_html(thinking: str, is_open: bool) -> str:
    label = "Thinking …" if is_open else "Thoughts"
    html = _answer_html(thinking, finished=not is_open)
    return f'<details class="thinking"{" open" if is_open else ""}><summary>{label}</summary>{html}</details>'


def _answer_html(text: str, finished: bool) -> str:
    json = laid_out_json(text)
    if json is not None:
        return _code_html(json, "json")
    return _markdown().render(text, {"finished": finished})


# --- Markdown ------------------------------------------------------------------------------------------------------------


@cache
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    # `&lt;` and `[name]: address` are shown as they were written; CommonMark would decode the one and remove the other.
    markdown.disable(["entity", "reference"])
    # markdown-it-py documents that a method is replaced in this way; there is no option for it.
    markdown.validateLink = lambda url: _FOLLOWED.match(url) is not None  # type: ignore[method-assign]
    formula_plugin(markdown)
    markdown.core.ruler.after("block", "surplus_cells", _keep_surplus_cells)
    markdown.core.ruler.after("block", "empty_lists", _write_empty_lists_as_text)
    markdown.core.ruler.push("directions", _set_directions)
    for name, rule in {"fence": _fence, "code_block": _fence, "image": _image, "link_open": _link_open}.items():
        markdown.add_render_rule(name, rule)
    markdown.render("")  # sorts the rules, which two threads must not do at the same time
    return markdown


def _keep_surplus_cells(state: StateCore) -> None:
    """Adds the cells that a row of a table has beyond the columns of the header. Markdown removes them."""
    lines = state.src.split("\n")
    added: list[tuple[int, list[Token]]] = []
    cells: list[str] = []
    line = ""
    for index, token in enumerate(state.tokens):
        if token.type == "tr_open":
            cells, line = [], lines[token.map[0]] if token.map else ""
        elif token.type == "inline" and index and state.tokens[index - 1].type in ("td_open", "th_open"):
            cells.append(token.content)
        elif token.type == "tr_close" and line:
            added.append((index, [new for cell in _surplus(line, cells) for new in _cell_tokens(cell, token.level)]))
    for index, tokens in reversed(added):
        state.tokens[index:index] = tokens


def _surplus(line: str, cells: list[str]) -> list[str]:
    written = [cell.strip() for cell in escapedSplit(line.strip())]
    if len(written) > 1 and not written[-1]:
        written.pop()
    # The first cells of the line may be a mark of a list or a quotation.
    for start in range(len(written) - len(cells) + 1):
        rest = written[start + 1 : start + len(cells)]
        if written[start].endswith(cells[0]) and rest == cells[1:]:
            return written[start + len(cells) :]
    return []


def _cell_tokens(content: str, level: int) -> list[Token]:
    inline = Token("inline", "", 0, content=content, children=[], level=level + 1)
    return [Token("td_open", "td", 1, level=level), inline, Token("td_close", "td", -1, level=level)]


def _write_empty_lists_as_text(state: StateCore) -> None:
    """Makes a paragraph of a list whose only item is empty, such as the answer "12.": a number of a list cannot be selected."""
    tokens = state.tokens
    for index in range(len(tokens) - 3, 0, -1):
        opening, item = tokens[index - 1], tokens[index]
        if opening.type not in ("ordered_list_open", "bullet_list_open") or tokens[index + 2].type != opening.type[:-4] + "close":
            continue
        if item.type == "list_item_open" and tokens[index + 1].type == "list_item_close":
            level = opening.level
            text = Token("inline", "", 0, content=item.info + item.markup, children=[], level=level + 1, map=opening.map)
            paragraph = Token("paragraph_open", "p", 1, level=level, map=opening.map, block=True)
            tokens[index - 1 : index + 3] = [paragraph, text, Token("paragraph_close", "p", -1, level=level, block=True)]


def _set_directions(state: StateCore) -> None:
    for token in state.tokens:
        if token.type in _DIRECTED:
            token.attrSet("dir", "auto")


def _fence(_self: RendererHTML, tokens: list[Token], index: int, _options: Any, env: Any) -> str:
    token = tokens[index]
    return _code_html(token.content, token.info.strip(), coloured=env.get("finished", True) or _has_end(token))


def _has_end(fence: Token) -> bool:
    """Whether a block of code has a closing fence: its lines in the text are those of the code and two fences."""
    first, after = fence.map or (0, 0)
    return not fence.content or (fence.content.endswith("\n") and after - first == fence.content.count("\n") + 2)


def _code_html(code: str, info: str, coloured: bool = True) -> str:
    """A block of code under the name of its language. info: what stands after the opening fence."""
    head = f"<figcaption>{escape(info)}</figcaption>" if info else ""
    body = highlighted(code, info.split(maxsplit=1)[0] if info and coloured else "")
    return f'<figure class="code" dir="ltr">{head}<pre tabindex="0"><code>{body}</code></pre></figure>\n'


def _image(self: RendererHTML, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    label = self.renderInlineAsText(token.children or [], options, env)
    address, title = str(token.attrGet("src") or ""), str(token.attrGet("title") or "")
    name = " – ".join(part for part in (label, title) if part) or address
    return f'{_link_html(address, title)}<span class="image-mark">Image:</span> {escape(name)}</a>'


def _link_open(_self: RendererHTML, tokens: list[Token], index: int, _options: Any, _env: Any) -> str:
    token = tokens[index]
    return _link_html(str(token.attrGet("href") or ""), str(token.attrGet("title") or ""))


def _link_html(address: str, title: str = "") -> str:
    shown = f"{title} ({address})" if title else address
    return f'<a href="{escape(address)}" title="{escape(shown)}" target="_blank" rel="noopener noreferrer nofollow">'
