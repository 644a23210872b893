# pyright: reportArgumentType=false, reportReturnType=false
"""What is drawn: scenes, what is held out of training, and labels that agree with both scene and pixels."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageFont

from mllama_demo.images.tiles import tile_layout
from training.backdrops import backdrop
from training.kinds import BY_NAME, COLOURS, FIGURES, KINDS, OBJECTS, PATCH_KINDS, REGIONS, SCENERY, SHAPES, TEXT, UNKNOWNS
from training.labels import HEADS, IGNORE, patch_labels
from training.render import disturb, seen_colours
from training.sampling import sample_scene
from training.sampling_text import MIN_LETTER_PIXELS
from training.scenes import REGION_MARGIN, Scene, Thing, held_out_pair, in_grey
from training.shapes import shape_mask
from training.words import held_out_word, word


def scenes(count: int, seed: int = 0, **how: str) -> list[Scene]:
    rng = random.Random(seed)
    return [sample_scene(rng, **how) for _ in range(count)]


class TestKinds:
    def test_there_are_more_than_150_kinds_of_object_beside_shapes_and_figures(self):
        assert len(OBJECTS) >= 150
        assert len({kind.name for kind in KINDS}) == len(KINDS) == len(OBJECTS) + len(SHAPES) + len(FIGURES)

    def test_articles_and_plurals_are_english(self):
        assert [BY_NAME[n].article for n in ("apple", "octopus", "umbrella", "dog", "unicorn", "hourglass", "Italian flag")] == [
            "an",
            "an",
            "an",
            "a",
            "a",
            "an",
            "an",
        ]
        assert [BY_NAME[n].many for n in ("dog", "bus", "fish", "butterfly", "light bulb")] == [
            "dogs",
            "buses",
            "fish",
            "butterflies",
            "light bulbs",
        ]

    @pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.name)
    def test_every_shape_has_a_mask_that_fills_a_good_part_of_its_box(self, kind):
        mask = np.asarray(shape_mask(kind.name))
        assert 0.15 < (mask > 128).mean() < 0.95


class TestScenes:
    def test_one_seed_gives_one_scene(self):
        assert scenes(50, seed=3) == scenes(50, seed=3) != scenes(50, seed=4)

    def test_things_lie_inside_the_picture_and_do_not_overlap(self):
        for scene in scenes(2000):
            for i, thing in enumerate(scene.things):
                left, top, right, bottom = thing.box
                assert -1e-9 <= left < right <= 1 + 1e-9
                assert -1e-9 <= top < bottom <= 1 + 1e-9
                for other in scene.things[:i]:
                    apart = right <= other.box[0] or other.box[2] <= left or bottom <= other.box[1] or other.box[3] <= top
                    assert apart

    def test_pictures_of_every_tile_layout_occur(self):
        layouts = {(lay.rows, lay.columns) for s in scenes(3000) for lay in [tile_layout(s.width, s.height, 84, 4)]}
        assert layouts == {(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)}

    def test_no_picture_is_longer_than_four_times_its_width(self):
        assert all(max(s.width, s.height) <= 4 * min(s.width, s.height) for s in scenes(3000))

    def test_every_kind_colour_and_background_occurs(self):
        seen = [s for s in scenes(8000) if not s.foreign]
        assert {t.kind for s in seen for t in s.things} == {k.name for k in KINDS} | {TEXT, *UNKNOWNS}
        assert {s.background for s in seen} == set(COLOURS) | set(SCENERY)
        assert {t.colour for s in seen for t in s.things} == {*COLOURS, None}

    def test_nothing_has_the_colour_of_its_plain_background(self):
        assert all(t.colour != s.background for s in scenes(4000) for t in s.things if not s.grey)

    def test_counts_reach_six(self):
        most = Counter(max(Counter(t.kind for t in s.things).values(), default=0) for s in scenes(600, want="count"))
        assert min(most[n] for n in (2, 3, 4, 5, 6)) > 30

    def test_a_region_is_named_only_away_from_the_borders_between_regions(self):
        for thing in (t for s in scenes(3000) for t in s.things):
            x, y = thing.centre
            near = min(abs(v - b) for v in (x, y) for b in (1 / 3, 2 / 3)) < REGION_MARGIN
            assert (thing.region is None) == near
            if thing.region:
                assert thing.region == REGIONS[int(x * 3), int(y * 3)]

    def test_letters_are_wide_enough_to_be_told_apart(self):
        for scene in scenes(800, want="text"):
            thing = next(t for t in scene.things if t.kind == TEXT)
            layout = tile_layout(scene.width, scene.height, 84, 4)
            width = (thing.box[2] - thing.box[0]) * layout.width / max(map(len, thing.text.split("\n")))
            assert width >= 0.8 * MIN_LETTER_PIXELS, (scene, width)


class TestHeldOut:
    def test_training_never_shows_a_held_out_pair_and_the_test_does(self):
        def pairs(split: str) -> int:
            return sum(
                held_out_pair(a.kind, b.kind)
                for s in scenes(2000, split=split, want="several")
                for i, a in enumerate(s.things)
                for b in s.things[:i]
            )

        assert pairs("train") == 0
        assert pairs("test") > 50

    def test_words_are_parted_between_training_and_test(self):
        rng = random.Random(1)
        trained = {word(rng, 8, "train") for _ in range(3000)}
        tested = {word(rng, 8, "test") for _ in range(500)}
        assert not trained & tested
        assert all(map(held_out_word, tested))
        assert max(map(len, trained)) == 8


class TestGrey:
    def test_a_grey_scene_says_nothing_of_colours(self):
        scene = Scene((Thing("star", "red", (0, 0, 0.4, 0.4)),), "blue", 300, 300, 1)
        grey = in_grey(scene)
        assert grey.grey
        assert grey.things[0].colour is None
        assert grey.background == "gray"
        assert in_grey(replace(scene, background="white")).background == "white"


class TestPixels:
    @pytest.mark.parametrize("name", [*COLOURS, *SCENERY])
    def test_a_backdrop_has_its_size_and_comes_again_from_its_seed(self, name):
        one, two = (backdrop(name, 97, 61, np.random.default_rng(5)) for _ in range(2))
        assert one.size == (97, 61)
        assert one.tobytes() == two.tobytes()

    @pytest.mark.parametrize("name", COLOURS)
    def test_a_plain_backdrop_is_seen_as_its_colour(self, name):
        assert seen_colours(backdrop(name, 60, 60, np.random.default_rng(1)))[0] == name

    def test_disturbing_keeps_the_size_and_most_of_the_picture(self):
        image = backdrop("the sea", 80, 60, np.random.default_rng(1))
        for seed in range(40):
            other = disturb(image, random.Random(seed))
            assert other.size == image.size
            assert np.abs(np.asarray(other, float) - np.asarray(image, float)).mean() < 40


class FixedFont:
    """Stands where DrawingBank does, with Pillow's own font: labels need its measures only."""

    def font(self, style: int, size: int, split: str) -> ImageFont.FreeTypeFont:
        return ImageFont.load_default(size)


def labels(scene: Scene) -> dict[str, np.ndarray]:
    """Each head's labels as a map [rows, columns] over the whole canvas."""
    layout = tile_layout(scene.width, scene.height, 84, 4)
    tiles = patch_labels(scene, layout, 84, 14, 4, FixedFont())
    assert tiles.shape == (len(HEADS), 4, 36)
    assert (tiles[:, layout.tiles :] == IGNORE).all()
    maps = tiles[:, : layout.tiles].reshape(len(HEADS), layout.rows, layout.columns, 6, 6).transpose(0, 1, 3, 2, 4)
    return dict(zip(HEADS, maps.reshape(len(HEADS), layout.rows * 6, layout.columns * 6), strict=True))


class TestLabels:
    def test_a_thing_is_labelled_where_it_is_and_the_rest_is_background(self):
        scene = Scene((Thing("dog", None, (0.0, 0.0, 0.5, 0.5)),), "white", 400, 400, 1)
        kinds = labels(scene)["kind"]
        assert kinds.shape == (12, 12)
        assert kinds[3, 3] == PATCH_KINDS.index("dog")
        assert (kinds[7:] == 0).all()
        assert (kinds[:, 7:] == 0).all()

    def test_padding_has_no_label(self):
        kinds = labels(Scene((), "white", 400, 100, 1))["kind"]
        assert kinds.shape == (6, 24)
        wide = labels(Scene((), "white", 400, 300, 1))["kind"]
        assert (wide[:9] == 0).all()
        assert (wide[9:] == IGNORE).all()

    def test_count_region_and_colour_belong_to_the_thing(self):
        things = (Thing("star", "red", (0, 0, 0.3, 0.3)), Thing("star", "red", (0.7, 0.7, 1, 1)))
        found = labels(Scene(things, "a night sky", 400, 400, 1))
        assert found["count"][2, 2] == 1  # two of them, counted from zero
        assert found["region"][2, 2] == list(REGIONS).index((0, 0))
        assert found["region"][10, 10] == list(REGIONS).index((2, 2))
        assert found["count"][6, 6] == IGNORE
        assert found["surface"][2, 2] == 1 + list(COLOURS).index("red")
        assert found["surface"][6, 6] == 1 + len(COLOURS) + list(SCENERY).index("a night sky")

    def test_letters_follow_each_other_from_left_to_right(self):
        scene = Scene((Thing(TEXT, "black", (0.05, 0.4, 0.95, 0.6), text="STOP"),), "white", 400, 400, 1)
        found = labels(scene)
        row = found["place"][6]
        shown = [int(v) for v in row if v != IGNORE]
        assert shown == sorted(shown)
        assert set(shown) == {0, 1, 2, 3}
        spelt = "".join(dict.fromkeys("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[v] for v in found["character"][6] if v != IGNORE))
        assert spelt == "STOP"

    def test_a_foreign_picture_is_foreign_everywhere(self):
        found = labels(Scene((), "gray", 400, 400, 1, foreign="noise"))
        assert (found["kind"] == PATCH_KINDS.index("foreign picture")).all()
        assert (found["surface"] == IGNORE).all()
