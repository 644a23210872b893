"""The texts about a checkpoint that is being loaded: bytes, time left, and how often they come."""

from __future__ import annotations

import pytest

from mllama_demo.engine.loading_progress import LOG_S, SHOW_S, LoadingProgress

GB = 10**9


class Loading:
    """A load at a rate that a test chooses, and the texts about it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.shown: list[str] = []
        self.logged: list[tuple[float, str]] = []
        self.report = LoadingProgress(self.shown.append, lambda text: self.logged.append((self.now, text)), lambda: self.now)

    def load(self, done: float, total: float, seconds: float) -> str:
        """Loads up to `done` bytes within `seconds`. Returns the last text."""
        self.now += seconds
        self.report(round(done), round(total))
        return self.shown[-1]


@pytest.fixture
def loading() -> Loading:
    return Loading()


def test_a_text_says_bytes_and_time_left(loading):
    assert loading.load(0.1 * GB, 21.3 * GB, 1) == "0.1 of 21.3 GB", "one second says little about the rate"
    assert loading.load(3.3 * GB, 21.3 * GB, 9) == "3.3 of 21.3 GB, about 55 s left"
    assert loading.load(21.3 * GB, 21.3 * GB, 55) == "21.3 of 21.3 GB"


def test_a_small_checkpoint_is_counted_in_megabytes(loading):
    assert loading.load(2_500_000, 10_200_000, 1) == "2 of 10 MB"


def test_the_time_left_follows_the_rate_of_the_last_seconds(loading):
    loading.load(10 * GB, 20 * GB, 1)
    for second in range(1, 31):
        text = loading.load((10 + 0.1 * second) * GB, 20 * GB, 1)
    assert text == "13.0 of 20.0 GB, about 70 s left"


def test_texts_come_slowly_and_lines_of_the_terminal_more_slowly(loading):
    for step in range(1, 2201):
        loading.load(step, 2201, 0.02)
    assert len(loading.shown) == pytest.approx(44 / SHOW_S, abs=4)
    assert [round(at / LOG_S) for at, _ in loading.logged] == [1, 2, 3, 4]


def test_the_last_text_always_comes(loading):
    loading.load(1, 2, 0)
    assert loading.load(2, 2, 0.001) == "0 of 0 MB"
    assert len(loading.shown) == 2
