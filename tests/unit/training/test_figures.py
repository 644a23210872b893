"""Figures: drawn again from one seed, labelled as they are drawn, and judged by what they show."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from PIL import ImageFont

from mllama_demo.images.tiles import tile_layout
from training.figures import FIGURES, QUESTIONS
from training.kinds import COLOURS
from training.labels import HEADS, IGNORE, patch_labels
from training.scenes import Scene, Thing, in_grey
from training.talk import ask
from training.talk.truth import right

TEXTS = {"bar chart": "red:4 blue:10 green:6 purple:2", "clock": "4:30"}


class Font:
    """Stands where DrawingBank does, with Pillow's own font."""

    def font(self, style: int, size: int, split: str) -> ImageFont.FreeTypeFont:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font


def pixels(kind: str, text: str, side: int = 200, seed: int = 1) -> np.ndarray:
    def font_of(size: int) -> ImageFont.FreeTypeFont:
        return Font().font(0, size, "train")

    return np.asarray(FIGURES[kind].draw(text, side, side, np.random.default_rng(seed), font_of).convert("RGB"), np.int32)


def scene(kind: str) -> Scene:
    return Scene((Thing(kind, None, (0.0, 0.0, 1.0, 1.0), text=TEXTS[kind]),), "white", 400, 400, 1)


def labels(shown: Scene) -> dict[str, np.ndarray]:
    """Each head's labels as a map of 12 × 12 patches."""
    tiles = patch_labels(shown, tile_layout(400, 400, 84, 4), 84, 14, 4, Font())  # pyright: ignore[reportArgumentType]
    return dict(
        zip(HEADS, tiles.reshape(len(HEADS), 2, 2, 6, 6).transpose(0, 1, 3, 2, 4).reshape(len(HEADS), 12, 12), strict=True)
    )


def test_every_figure_has_a_text_to_test_it_with():
    assert set(TEXTS) == set(FIGURES)


@pytest.mark.parametrize("kind", FIGURES)
def test_one_seed_gives_one_drawing(kind):
    text = FIGURES[kind].sample(random.Random(2))
    assert text == FIGURES[kind].sample(random.Random(2))
    assert np.array_equal(pixels(kind, text), pixels(kind, text))
    assert not np.array_equal(pixels(kind, text), pixels(kind, text, seed=2))


def test_a_bar_has_its_colour_and_its_height():
    shown = pixels("bar chart", TEXTS["bar chart"])
    heights = []
    for (left, top, right_, bottom), tint in FIGURES["bar chart"].surfaces(TEXTS["bar chart"]):
        column = shown[:, int(200 * (left + right_) / 2)]
        drawn = np.abs(column - np.array(COLOURS[tint])).max(-1) <= 14
        assert drawn[int(200 * top) + 2 : int(200 * bottom) - 2].all(), tint
        heights.append(drawn.sum())
    assert np.argsort(heights).tolist() == [3, 0, 2, 1]


@pytest.mark.parametrize(
    ("text", "hour", "minute"), [("3:00", 3, 0), ("12:30", 12.5, 30), ("9:15", 9.25, 15), ("6:45", 6.75, 45)]
)
def test_the_hands_of_a_clock_point_to_the_time(text, hour, minute):
    for seed in range(6):
        shown = pixels("clock", text, seed=seed)
        paper = shown[100 + 20, 100 + 20] if text != "3:00" else shown[120, 80]
        for turn, reach in ((hour / 12, 0.35), (minute / 60, 0.6)):
            x, y = 100 + 90 * reach * math.sin(math.tau * turn), 100 - 90 * reach * math.cos(math.tau * turn)
            assert np.abs(shown[round(y), round(x)] - paper).max() > 60, (text, seed, turn)


def test_the_patches_of_a_bar_are_labelled_with_its_colour():
    found = labels(scene("bar chart"))
    bars = FIGURES["bar chart"].surfaces(TEXTS["bar chart"])
    for (left, _, right_, bottom), tint in bars:
        patch = found["surface"][int(12 * bottom) - 1, int(6 * (left + right_))]
        assert patch == 1 + list(COLOURS).index(tint)
    assert set(found["count"].flatten().tolist()) == {3}
    assert (labels(in_grey(scene("bar chart")))["surface"] <= 0).all(), "a grey bar has no colour"


def test_the_patches_of_a_clock_are_labelled_with_its_time():
    found = labels(scene("clock"))
    assert (found["hour"] == 4).all()
    assert (found["quarter"] == 2).all()
    assert (found["count"] == IGNORE).all()


@pytest.mark.parametrize("kind", QUESTIONS)
def test_its_own_answer_is_right_and_another_figures_answer_is_wrong(kind):
    figure, question = QUESTIONS[kind]
    rng = random.Random(3)
    wrong = 0
    for _ in range(40):
        one, other = FIGURES[figure].sample(rng), FIGURES[figure].sample(rng)
        answer, gold = question.answer(rng, one) or pytest.fail("no answer")
        assert question.right(gold, answer), (one, answer)
        reply, another = question.answer(rng, other) or pytest.fail("no answer")
        if another != gold:
            wrong += 1
            assert not question.right(gold, reply), (one, reply)
    assert wrong > 10


@pytest.mark.parametrize(
    ("gold", "reply", "is_right"),
    [
        ("3:30", "Half past three.", True),
        ("3:30", "It is 3:30.", True),
        ("3:00", "Three o'clock.", True),
        ("3:45", "A quarter to four.", True),
        ("3:15", "It is quarter past 3.", True),
        ("3:30", "It is half past four.", False),
        ("3:30", "It is 3:30 or 4:30.", False),
        ("12:45", "quarter to one", True),
    ],
)
def test_the_time_is_read_in_digits_and_in_words(gold, reply, is_right):
    assert QUESTIONS["clock: time"][1].right(gold, reply) is is_right


def test_colours_of_bars_are_not_asked_of_a_grey_picture():
    grey = in_grey(scene("bar chart"))
    rng = random.Random(4)
    assert ask(rng, grey, "bar chart: highest") is None
    exchange = ask(rng, grey, "bar chart: bars")
    assert exchange is not None
    assert right(exchange, grey, "Four bars.")
    assert ask(rng, scene("clock"), "bar chart: bars") is None
