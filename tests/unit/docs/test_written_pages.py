"""What scripts write into docs/ is what they would write now."""

from __future__ import annotations

import pytest

from tests.support.paths import ROOT
from tests.support.scripts import script


@pytest.mark.parametrize("name", ["options.md", "commands.md", "http-api.md", "file-formats.md"])
def test_the_reference_is_what_the_code_says(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == script("write_reference").page(name), "run `make reference`"


def test_every_page_of_the_reference_is_written_by_the_script() -> None:
    assert {file.name for file in (ROOT / "docs" / "reference").iterdir()} == set(script("write_reference").WRITERS)


@pytest.mark.slow
def test_the_map_of_imports_is_what_the_code_imports() -> None:
    draw_map = script("draw_map")
    assert draw_map.MAP.read_text(encoding="utf-8") == draw_map.current(), "run `make map`"


@pytest.mark.slow
def test_every_arrow_of_the_map_points_downwards() -> None:
    draw_map = script("draw_map")
    rank = {name: row for row, names in enumerate(draw_map.layers()) for name in names}
    arrows = draw_map.imports(ROOT / "mllama_demo")
    assert [(s, t) for s, targets in arrows.items() for t in targets if "__main__" not in (s, t) and rank[s] >= rank[t]] == []


def test_attributes_are_read_from_a_docstring() -> None:
    docstring = """A thing.

    Attributes:
        name: The name
            of the thing.
        width, height: Pixels.

    Raises:
        ValueError: Never.
    """
    read = script("reference_tables")
    docstring = docstring.replace("\n    ", "\n")
    assert read.attributes(docstring) == {"name": "The name of the thing.", "width": "Pixels.", "height": "Pixels."}
    assert read.summary(docstring) == "A thing."
