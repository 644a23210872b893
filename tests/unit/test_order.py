"""The order in which the workers of pytest-xdist begin the files of tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.order import BROWSER, sort_items

UNIT = BROWSER.parent / "unit"


@dataclass
class _Item:
    name: str
    path: Path
    long: bool = False

    def get_closest_marker(self, name: str) -> object | None:
        return self if name == "long" and self.long else None


def _sorted(*items: _Item) -> str:
    every: list[Any] = [*items]
    sort_items(every)
    return " ".join(item.name for item in every)


def test_a_file_with_a_long_test_comes_first_and_whole() -> None:
    short, long = UNIT / "test_short.py", UNIT / "test_long.py"
    items = (
        _Item("a", short),
        _Item("b", short),
        _Item("c", long),
        _Item("d", long, long=True),
        _Item("e", UNIT / "test_last.py"),
    )
    assert _sorted(*items) == "c d a b e"


def test_browser_tests_come_last_with_the_largest_file_first() -> None:
    small, large, long = BROWSER / "test_small.py", BROWSER / "ui" / "test_large.py", BROWSER / "test_long.py"
    items = (
        _Item("a", small),
        _Item("b", large),
        _Item("c", large),
        _Item("d", long, long=True),
        _Item("e", UNIT / "test_one.py"),
    )
    assert _sorted(*items) == "e d b c a"
