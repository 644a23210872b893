"""The HTML report of a run: complete, self-contained, escaped."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from mllama_demo.config.branding import Brand
from mllama_demo.explore.grid import make_grid
from mllama_demo.explore.report import html_report
from mllama_demo.explore.results import Run
from mllama_demo.explore.snippets import DEFAULT_URL
from tests.support.explore_runs import HOSTILE_TEXT, failed_cell, hostile_run, make_run, with_texts

BRAND = Brand("The demo")


def report(run: Run, brand: Brand = BRAND) -> str:
    return html_report(run, DEFAULT_URL, brand)


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] and self.tags[-1][0] != "style":
            self.text += data


@pytest.mark.parametrize("run", [make_run(), hostile_run()], ids=["ordinary", "hostile"])
def test_the_report_has_no_scripts_and_no_external_links(run: Run) -> None:
    html = report(run)
    page = Page(html)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "object", "b"}
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href", "action")]
    assert links
    assert all(str(link).startswith(("data:image/webp;base64,", "data:image/svg+xml;base64,")) for link in links)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "url(" not in html
    assert "@import" not in html
    assert any("default-src 'none'" in str(attributes.get("content")) for tag, attributes in page.tags if tag == "meta")


def test_the_report_shows_the_request_and_every_answer() -> None:
    run = make_run()
    page = Page(report(run))
    for cell in run.cells:
        assert cell.label() in page.text
        assert cell.text in page.text
    for part in ("What is it?", "a model", "Distinct-1", "Self-similarity", "numpy 2", "a picture.png, 40 × 30"):
        assert part in page.text
    assert "prefers-color-scheme: dark" in report(run)
    assert "@media print" in report(run)


def test_the_report_writes_values_and_their_names_as_the_page_does() -> None:
    grid = {"prompt": "Hello", "temperature": [0.3, 1, 2], "top_p": [0.5, 1], "seed": [2**32 - 1], "max_tokens": 3}
    page = Page(report(with_texts(make_run(make_grid(grid)), *"abcdef")))
    texts = [" ".join(line.split()) for line in page.text.splitlines()]
    assert f"Temperature0.3, 1, 2Top-p0.5, 1Top-k0Seed{2**32 - 1} Max tokens3" in texts
    assert {"0.3, 0.5", "0.3, 1", "1, 0.5", "1, 1", "2, 0.5", "2, 1"} <= set(texts)
    assert "Temperature, Top-panswers" in texts
    assert "Temperature ↓ Top-p →0.51" in texts
    assert "ended at max tokens · 1 token" in texts


def test_the_report_escapes_markup_in_texts() -> None:
    run = hostile_run()
    page = Page(report(run))
    assert "<script>x</script>" in page.text
    assert "<img src=x onerror=y>" in page.text
    assert HOSTILE_TEXT.splitlines()[0] in page.text


def test_the_report_shows_the_error_of_a_failed_cell() -> None:
    run = make_run()
    cells = (failed_cell(run.cells[0], "The model broke."), *run.cells[1:])
    assert "The model broke." in Page(report(run.model_copy(update={"cells": cells}))).text


def test_a_run_without_image_and_traces_has_a_report() -> None:
    run = with_texts(make_run(make_grid({"prompt": "Hello", "max_tokens": 3})), "Hi.")
    assert "Hi." in Page(report(run)).text
