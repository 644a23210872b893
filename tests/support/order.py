"""The order of the tests, in which the workers of pytest-xdist begin their files."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.paths import ROOT

BROWSER = ROOT / "tests" / "browser"


def sort_items(items: list[pytest.Item]) -> None:
    """Puts long files before the others, and the browser tests last. All else stays where it is.

    No event loop can be started in a process after Playwright's has started, so that a worker runs all other tests before. Long
    files come first so that at the end no worker waits long for the last file of another one. A long file has a test with the
    marker `long`; of the other files with browser tests, the more tests the longer.
    """
    long = {item.path for item in items if item.get_closest_marker("long")}
    tests_in = Counter(item.path for item in items if BROWSER in item.path.parents)
    items.sort(key=lambda item: (item.path in tests_in, item.path not in long, -tests_in[item.path]))
