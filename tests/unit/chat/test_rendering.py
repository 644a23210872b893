"""The HTML of messages: all of the text is visible, nothing is active, formulas and thinking parts are set."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mllama_demo.chat import formulas
from mllama_demo.chat.rendering import (
    MAX_FORMATTED,
    MAX_FORMATTED_PAGE,
    formatted_from,
    render_answer,
    render_question,
    split_thinking,
)

ALLOWED_TAGS = {
    "div", "p", "strong", "em", "s", "a", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote",
    "code", "pre", "figure", "figcaption", "table", "thead", "tbody", "tr", "th", "td", "span", "details", "summary",
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mstyle", "msqrt", "mpadded", "mphantom", "menclose", "mtable",
    "mtr", "mtd", "mfrac", "mroot", "msub", "msup", "msubsup", "munder", "mover", "munderover",
}  # fmt: skip
ALLOWED_ATTRIBUTES = {
    "class", "dir", "href", "title", "target", "rel", "start", "style", "open", "tabindex", "alttext", "display",
    "displaystyle", "scriptlevel", "stretchy", "fence", "form", "accent", "columnalign", "columnlines", "rowlines",
    "columnspacing", "rowspacing", "width", "height", "depth", "lspace", "rspace", "voffset", "linethickness",
    "mathvariant", "mathcolor", "mathbackground", "mathsize", "minsize", "maxsize", "notation", "linebreak", "symmetric",
}  # fmt: skip
VOID = {"br", "hr"}


class Page(HTMLParser):
    """What a reader sees.

    Attributes:
        text: the visible text, with the LaTeX of a formula in the place of the formula, and addresses and titles of links after
            their text.
        elements: pairs of tag and attributes.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))
        if tag == "math":
            self.text += dict(attrs)["alttext"] or ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        name, attributes = self.open.pop()
        assert name == tag
        if tag == "a":
            self.text += f"{attributes['href']}{attributes['title']}"

    def handle_data(self, data: str) -> None:
        if not any(tag == "math" for tag, _ in self.open):
            self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(f"a declaration: {decl}")


def visible(text: str, finished: bool = True) -> str:
    return Page(render_answer(text, finished)).text


def letters(text: str) -> str:
    return re.sub(r"[\W\d_]", "", text)


def is_subsequence(part: str, whole: str) -> bool:
    characters = iter(whole)
    return all(character in characters for character in part)


FRAGMENTS = st.sampled_from([
    "\n", "\n\n", " ", "  \n", "    ", "\t", "- ", "1. ", "> ", "# ", "```", "```python\n", "~~~", "`", "``", "*", "**",
    "_", "~~", "~", "|", "| a | b |\n|---|---|\n", "| c | d | e |", "\n---\n", "===", "<", ">", "</", "<!--", "-->", "<b>",
    "List<String>", "<br/>", "<script>alert(x)</script>", "<img src=x onerror=y>", "<?php", "<![CDATA[", "<!DOCTYPE html>",
    "<think>", "</think>", "&lt;", "&amp;", "&#x3c;", "&", "\\", "\\<", "\\*", '"', "'", "javascript:alert(x)",
    "https://example.org/a?b=c&d", "mailto:a@b.c", "[", "](", "]", "(", ")", "![", "[ref]: https://example.org", '"title"',
    "<https://example.org>", "<std::string>", "data:text/html,x", "$", "$$", "\\(", "\\)", "\\[", "\\]", "\\frac{a}{b}",
    "\\frac{a}", "x^2", "{", "}", "\\text{<b>}", "\\href{javascript:x}{y}", "\\begin{align}", "\\end{align}", "&=", "\\\\",
    "\\style{color:red}{x}", "$x$", "$5", "word", "Wörter", "שלום", "مرحبا", "日本", "5", '{"k": [1, {"l": "m"}]}', "\x00",
    "\u2028", "\x1b", "\ufeff",
])  # fmt: skip
TEXTS = st.lists(st.one_of(FRAGMENTS, st.text(max_size=6)), max_size=30).map("".join)


@pytest.mark.slow
@given(TEXTS, st.booleans())
@example("| a | b |\n|--|--|\n| c | d | e |", True)
@example("> 1. | a | b |\n>    |--|--|\n>    | c | d | e |", True)
@example("[ref]: https://example.org", True)
@example('![alt](https://example.org "title")', True)
@example("vector<std::string>", True)
def test_every_letter_of_an_answer_is_visible_in_its_order(text: str, finished: bool) -> None:
    thinking, answer = split_thinking(text)
    assert is_subsequence(letters((thinking or "") + (answer or "")), visible(text, finished))


@given(TEXTS, st.booleans())
def test_an_answer_has_no_active_content(text: str, finished: bool) -> None:
    for tag, attributes in Page(render_answer(text, finished)).elements:
        assert tag in ALLOWED_TAGS
        assert attributes.keys() <= ALLOWED_ATTRIBUTES
        if tag == "a":
            assert re.match("(https?://|mailto:)", attributes["href"] or "", re.IGNORECASE)
            assert attributes["rel"] == "noopener noreferrer nofollow"
        if "style" in attributes:
            assert re.fullmatch("text-align:(left|right|center)", attributes["style"] or ""), "the alignment of a table's column"


@pytest.mark.slow
@given(TEXTS)
def test_a_question_is_shown_as_it_was_typed(text: str) -> None:
    page = Page(render_question(text))
    assert page.text == text
    assert page.elements == [("div", {"class": "typed-text", "dir": "auto"})]


@pytest.mark.parametrize(
    "text",
    [
        "The type List<String> names a list of names.",
        "A <!-- comment --> and <foo>unknown</foo> tags, <br> and </b>.",
        "std::map<int, std::vector<std::string>> m;",
        "Entities such as &lt;, &copy; and &#60; are text.",
        "<details open ontoggle=alert(1)>",
        "[a](javascript:alert(1)) and [b](/logout) and ![c](data:image/png;base64,AAAA)",
        "[1]: https://example.org",
    ],
)
def test_markup_in_an_answer_is_text(text: str) -> None:
    assert visible(text).strip() == text


def test_an_image_is_a_link_that_names_it() -> None:
    html = render_answer("![A cat](https://example.org/cat.png)")
    assert "<img" not in html
    assert 'href="https://example.org/cat.png"' in html
    assert "A cat</a>" in html


def test_cells_beyond_the_header_of_a_table_are_shown() -> None:
    html = render_answer("| a | b |\n|---|---|\n| 1 | 2 | **3** | 4 |")
    assert html.count("<td>") == 4
    assert "<strong>3</strong>" in html


@pytest.mark.parametrize("answer", ["12.", "0.", "3)", "007.", "-", "*", "> 12.", "The sum:\n\n12."])
def test_a_number_without_text_is_no_list(answer: str) -> None:
    html = render_answer(answer)
    assert "<li" not in html
    assert answer.split()[-1] in html


def test_a_list_with_text_in_an_item_is_a_list() -> None:
    assert render_answer("1.\n2. two").count("<li") == 2
    assert render_answer("1. one").count("<li") == 1


def test_code_has_the_name_of_its_language_and_its_exact_text() -> None:
    code = 'def f(x: "List<String>"):\n\n    return x  # <b>\n'
    html = render_answer(f"```python title\n{code}```")
    assert "<figcaption>python title</figcaption>" in html
    assert Page(html).text == "python title" + code + "\n"
    assert '<span class="k">def</span>' in html


@pytest.mark.parametrize("fence", ["```py\n{}", "- ```py\n  {}", "> ~~~py\n> {}", "<think>\n```py\n{}"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n``"])
def test_code_gets_its_colours_when_its_block_or_the_answer_is_complete(fence: str, end: str) -> None:
    text = fence.format("def f(): pass" + end)
    assert '<span class="k">' not in render_answer(text, finished=False)
    assert '<span class="k">' in render_answer(text)


@pytest.mark.parametrize(
    "fence", ["```py\ndef f(): pass\n```", "- ```py\n  def f(): pass\n  ```", "> ~~~py\n> def f(): pass\n> ~~~"]
)
def test_a_complete_block_has_its_colours_while_the_answer_is_being_written(fence: str) -> None:
    assert '<span class="k">' in render_answer(fence, finished=False)
    assert '<span class="k">' in render_answer(f"<think>\n{fence}\n</think>\nand", finished=False)


def test_a_fence_that_is_still_being_written_is_code() -> None:
    html = render_answer("Here:\n\n```js\nlet a = `x < y", finished=False)
    assert html.count("<pre") == 1
    assert "let a = `x < y" in Page(html).text


# --- formulas ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "latex", "display"),
    [
        ("so $x^2$ grows", "x^2", "inline"),
        ("so \\(a_1 * b_1\\) grows", "a_1 * b_1", "inline"),
        ("$$\\frac{a}{b}$$", "\\frac{a}{b}", "block"),
        ("in words $$\\sqrt{2}$$ here", "\\sqrt{2}", "block"),
        ("\\[ e^{i\\pi} + 1 = 0 \\]", "e^{i\\pi} + 1 = 0", "block"),
        ("$$\na = b\n= c\n- d\n$$", "a = b\n= c\n- d", "block"),
        ("- one\n\n  \\[\n  x_1 + x_2\n  \\]", "x_1 + x_2", "block"),
        ("the $n$th term", "n", "inline"),
        ("about $2x$ or", "2x", "inline"),
        ("a cost of $\\$5$ each", "\\$5", "inline"),
        ("| f |\n|---|\n| $x^2$ |", "x^2", "inline"),
        ("$$\\begin{aligned} a &= b \\\\ c &= d \\end{aligned}$$", "\\begin{aligned} a &= b \\\\ c &= d \\end{aligned}", "block"),
        ("$\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}$", "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "inline"),
    ],
)
def test_a_formula_is_mathml(text: str, latex: str, display: str) -> None:
    formulas = [attributes for tag, attributes in Page(render_answer(text)).elements if tag == "math"]
    assert [(formula["alttext"], formula["display"]) for formula in formulas] == [(latex, display)]


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $10.",
        "between $5-$10, or US$5 to US$10",
        "I pay 5$ and 10$ and $ 20 $",
        "costs $5 or so$",
        "set $HOME/bin:$PATH and $USER",
        "echo $x, $y",
        "`$x^2$` is code",
        "an open $x^2",
        "an open \\(x_1 and \\[y_1",
        "$$",
        "$$$$",
    ],
)
def test_prices_variables_and_lone_signs_are_no_formulas(text: str) -> None:
    html = render_answer(text)
    assert "<math" not in html
    assert visible(text).strip() == text.replace("`", "")


@pytest.mark.parametrize(
    "text",
    [
        "$\\frac{a}$",
        "$\\nosuchcommand{x}$",
        "$x^$",
        "$$\\begin{nosuch}x\\end{nosuch}$$",
        "\\(\\left( x\\)",
        "\\[{a\\]",
        "$a}$",
        "$$" + "{" * 500 + "x" + "}" * 500 + "$$",
        "$" + "\\frac" * 900 + "$",
        "$$" + "x" * 5000 + "$$",
    ],
)
def test_a_formula_that_cannot_be_rendered_is_shown_as_written(text: str) -> None:
    html = render_answer(text)
    assert "<math" not in html
    assert visible(text).strip() == text


def test_a_formula_without_an_end_leaves_the_rest_of_the_answer_as_it_is() -> None:
    assert visible("$$\nx_1 = 2\n\n**bold** text", finished=False).strip() == "$$\nx_1 = 2\nbold text"


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("\\[ a\n", ""),
        ("\\[\n", ""),
        ("\\[ a\n\n", ""),
        ("\\[ a\n\n", "\\]"),
        ("\\[ a\n", "\\] b"),
        ("\\[ a\n", "\n\nb \\]"),
        ("> \\[ a\n", ""),
        ("- \\[ a\n", ""),
        ("$$ a\n", ""),
    ],
)
def test_lines_are_read_a_few_times_however_many_formulas_are_not_closed(monkeypatch, line: str, end: str) -> None:
    read: list[int] = []
    original = formulas._line
    monkeypatch.setattr(formulas, "_line", lambda state, number: read.append(number) or original(state, number))
    render_answer(line * 300 + end, finished=False)
    assert 300 <= len(read) <= 300 * 12


@pytest.mark.parametrize("text", ["\\( a ", "\\[ a ", "b \\[\n", "[\\( a](x) "])
def test_a_closing_mark_that_is_not_there_is_searched_once(monkeypatch, text: str) -> None:
    searched: list[int] = []
    original = formulas._find_closing
    monkeypatch.setattr(formulas, "_find_closing", lambda *place: searched.append(0) or original(*place))
    render_answer(text * 300, finished=False)
    assert 1 <= len(searched) <= 4


@pytest.mark.parametrize("text", ["\\[\nx\n\n\\]", "\\[\n\nx\n\\]", "\\[ a\n\n\\[\nx\n\\]", "\\[ a\n\\[\n\nx\\]", "\\( \\(x\\)"])
def test_a_formula_is_found_after_one_that_is_not_closed_and_across_empty_lines(text: str) -> None:
    assert render_answer(text).count("<math") == 1


def test_text_in_a_formula_is_no_markup() -> None:
    html = render_answer("$\\text{<img src=x onerror=alert(1)>}$ $\\href{javascript:alert(1)}{x}$ $\\style{color:red}{y}$")
    assert {tag for tag, _ in Page(html).elements} <= ALLOWED_TAGS
    assert 'href="' not in html
    assert 'style="' not in html


# --- thinking parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>\nplan\n</think>\n\nHello", "\nplan\n", "\n\nHello"),
        ("\n<THINK>plan</THINK>Hello", "plan", "Hello"),
        ("plan\n</think>\nHello", "plan\n", "\nHello"),
        ("plan.</think>\n\nHello", "plan.", "\n\nHello"),
        ("<think>plan", "plan", None),
        ("The tag `</think>` ends it.", None, "The tag `</think>` ends it."),
        ("The tag </think> ends it.", None, "The tag </think> ends it."),
        ("```\nplan\n</think>\n```\n", None, "```\nplan\n</think>\n```\n"),
        ("Say <think> and </think>", None, "Say <think> and </think>"),
    ],
)
def test_a_thinking_part_is_split_from_the_answer(text: str, thinking: str | None, answer: str | None) -> None:
    assert split_thinking(text) == (thinking, answer)


def test_a_thinking_part_is_open_only_while_it_is_written() -> None:
    def details(text: str, finished: bool) -> dict[str, str | None]:
        return next(attributes for tag, attributes in Page(render_answer(text, finished)).elements if tag == "details")

    assert "open" in details("<think>**plan**", False)
    assert "open" not in details("<think>**plan**", True)
    assert "open" not in details("<think>**plan**</think>Hello", False)
    assert "<strong>plan</strong>" in render_answer("<think>**plan**</think>Hello")


# --- directions and JSON -------------------------------------------------------------------------------------------------


def test_blocks_run_in_the_direction_of_their_own_text() -> None:
    html = render_answer("English\n\nשלום\n\n- مرحبا\n\n> x\n\n# y\n\n```\ncode\n```")
    directions = [(tag, attributes.get("dir")) for tag, attributes in Page(html).elements]
    assert {("p", "auto"), ("ul", "auto"), ("blockquote", "auto"), ("h1", "auto"), ("figure", "ltr")} <= set(directions)


@pytest.mark.parametrize("text", ['{"a":1.10,"a":[],"b":{"c":"d, {e: \\"f\\"}","g":[1e5,true,null]}}', '[{"a":1},{"a":2}]'])
def test_json_is_laid_out_without_another_change(text: str) -> None:
    shown = Page(render_answer(text)).text.removeprefix("json").strip()
    assert shown.count("\n") >= 4
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", text)


@pytest.mark.parametrize("text", ["{x} is a set", "{", "[1, 2]", "[link](https://example.org)", "{" * 5000])
def test_other_answers_in_brackets_are_not_json(text: str) -> None:
    assert "figcaption" not in render_answer(text)


def test_a_text_that_no_model_writes_is_shown_unformatted() -> None:
    """Formatting 64 MB of it would take an hour."""
    assert render_answer("**a**" + "!" * (MAX_FORMATTED - 5)).count("<strong>") == 1
    assert render_answer("**a**" + "![" * MAX_FORMATTED) == render_question("**a**" + "![" * MAX_FORMATTED)


def test_the_last_answers_of_a_page_are_formatted() -> None:
    assert formatted_from([]) == formatted_from(["a", "b"]) == 0
    assert formatted_from(["a" * MAX_FORMATTED_PAGE, "b" * 10, "c"]) == 1
    assert formatted_from(["a", "b" * (MAX_FORMATTED_PAGE + 1)]) == 2
