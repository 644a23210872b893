"""The world of the training: unknown things that stay unknown, texts in both cases and of two lines, and looks of drawings."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.unit.training.test_figures import Font
from training.drawings import held_out_styles, icon_names, plain, unknown_kind, unknown_split
from training.kinds import (
    BY_NAME,
    CATEGORIES,
    CATEGORY_NOUNS,
    CHARACTERS,
    DISPUTED,
    MAX_DIGITS,
    MAX_WORD,
    OBJECTS,
    TEXT,
    UNKNOWN,
    UNKNOWN_ICONS,
    UNKNOWNS,
    category_of,
)
from training.render import fit_text, outline
from training.sampling import sample_scene
from training.sampling_text import text_thing
from training.scenes import Scene, Thing
from training.talk import ask
from training.talk.truth import right
from training.tokenizer import pieces
from training.words import case_is_visible, cased

HEDGEHOG = Scene((Thing("unknown animal", None, (0.3, 0.3, 0.7, 0.7)),), "white", 300, 300, 0)


def test_no_icon_is_taught_and_unknown():
    taught = {name for kind in OBJECTS for name in icon_names(kind)}
    assert not taught & {plain(icon) for icons in UNKNOWN_ICONS.values() for icon in icons}
    assert all(unknown_kind(icon) == "" for kind in OBJECTS for icon in kind.icons)


@pytest.mark.parametrize(
    ("icon", "kind"),
    [
        ("hedgehog", "unknown animal"),
        ("flag-for-norway", "unknown flag"),
        ("dog-face", ""),
        ("toolbox", "unknown tool"),
        ("yarn", UNKNOWN),
    ],
)
def test_an_icon_is_unknown_with_its_category(icon, kind):
    assert unknown_kind(icon) == kind


def test_every_category_has_unknown_things_for_training_and_for_the_test():
    for kind, icons in UNKNOWN_ICONS.items():
        tested = {icon for icon in icons if unknown_split(plain(icon)) == "test"}
        assert tested, kind
        assert len(icons) - len(tested) >= 5, kind


def test_every_category_is_asked_for_and_has_unknown_things():
    assert set(CATEGORIES) == set(DISPUTED) <= set(CATEGORY_NOUNS)
    unknown = {category_of(kind) for kind in UNKNOWNS} - {""}
    assert unknown <= set(CATEGORY_NOUNS)
    assert unknown >= set(CATEGORIES) - {"shape"}


def test_one_style_of_each_kind_is_held_out_if_it_has_two():
    index = [{"kind": "dog", "style": style, "icon": ""} for style in ("a", "b", "b", "one colour", "openmoji")]
    index += [{"kind": "cat", "style": "a", "icon": ""}, {"kind": "unknown animal", "style": "c", "icon": "hedgehog"}]
    held = held_out_styles(index)
    assert held["dog"] in ("a", "b")
    assert held["cat"] == ""
    assert set(held) == {"dog", "cat"}


@pytest.mark.parametrize(
    ("reply", "is_right"),
    [
        ("I do not know what this is. I am a tiny demo model.", True),
        ("This is an animal I do not know.", True),
        ("This is some animal.", True),
        ("This is a plant I do not know.", False),
        ("This is some plant.", False),
        ("This is a dog.", False),
        ("A dog, an animal I do not know.", False),
    ],
)
def test_of_an_unknown_animal_one_may_say_so_or_name_the_category(reply, is_right):
    exchange = ask(random.Random(1), HEDGEHOG, "single")
    assert exchange is not None
    assert right(exchange, HEDGEHOG, reply) is is_right


@pytest.mark.parametrize(
    ("reply", "is_right"), [("It is a tool I do not know.", True), ("Some tool.", True), ("A gem.", False), ("A thing.", False)]
)
def test_an_unknown_thing_may_be_of_any_category(reply, is_right):
    scene = replace(HEDGEHOG, things=(replace(HEDGEHOG.things[0], kind=UNKNOWN),))
    exchange = ask(random.Random(1), scene, "single")
    assert exchange is not None
    assert right(exchange, scene, reply) is is_right


def test_an_unknown_animal_is_an_animal_and_may_be_no_tool():
    rng = random.Random(2)
    found = [exchange for _ in range(200) if (exchange := ask(rng, HEDGEHOG, "category"))]
    assert {("animal" in exchange.question, bool(exchange.gold)) for exchange in found} == {(True, True), (False, False)}
    assert all(right(exchange, HEDGEHOG, exchange.answer) for exchange in found)


def texts(count: int, width: int = 600, height: int = 600) -> list[Thing]:
    rng = random.Random(3)
    return [text_thing(rng, width, height, "red", "train") for _ in range(count)]


def test_texts_have_both_cases_up_to_ten_letters_five_digits_and_two_lines():
    lines = [line for thing in texts(1500) for line in thing.text.split("\n")]
    words, numbers = [line for line in lines if line.isalpha()], [line for line in lines if line.isdigit()]
    assert max(map(len, words)) == MAX_WORD
    assert max(map(len, numbers)) == MAX_DIGITS
    assert {len(thing.text.split("\n")) for thing in texts(50)} == {1, 2}
    shares = [sum(kind(word) for word in words) / len(words) for kind in (str.isupper, str.islower, str.istitle)]
    assert min(shares) > 0.2
    assert set("".join(lines)) == set(CHARACTERS)


def test_the_case_of_a_word_is_asked_only_where_it_can_be_seen():
    assert case_is_visible("Cowboy")
    assert not case_is_visible("cow")
    assert not case_is_visible("ZOO")
    assert {cased(random.Random(seed), "TREE") for seed in range(30)} == {"TREE", "tree", "Tree"}


def test_the_lines_of_a_sign_lie_below_each_other_inside_their_box():
    fitted = fit_text(Thing(TEXT, "red", (0, 0, 1, 1), text="Open\nDAILY"), 160, 90, Font(), "train")  # pyright: ignore[reportArgumentType]
    (first, upper), (second, lower) = fitted.lines
    assert (first, second) == ("Open", "DAILY")
    assert upper[3] <= lower[1]
    assert all(
        0 <= box[0] < box[2] <= fitted.width <= 160 and 0 <= box[1] < box[3] <= fitted.height <= 92 for box in (upper, lower)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('It says "Stop".', ["It", " says", ' "', "S", "t", "o", "p", '".']),
        ('The text "OPEN Daily" is red.', ["The", " text", ' "', *"OPEN", " ", *"Daily", '"', " is", " red", "."]),
        ('"42"', ['"', "4", "2", '"']),
        ('It says "Hi" and "Ho", I see.', ["It", " says", ' "', *"Hi", '"', " and", ' "', *"Ho", '",', " I", " see", "."]),
        ("A dog, 123 cats.", ["A", " dog", ",", " ", "123", " cats", "."]),
    ],
)
def test_a_quoted_text_is_spelt_out_and_no_other(text, expected):
    found = [piece.replace("Ġ", " ") for piece, _ in pieces().pre_tokenize_str(text)]
    assert found == expected


def test_a_sign_is_read_whole_or_by_line():
    sign = Scene((Thing(TEXT, "red", (0.1, 0.1, 0.9, 0.9), text="Open\nDAILY"),), "white", 300, 300, 0)
    rng = random.Random(5)
    golds = {exchange.gold for _ in range(200) if (exchange := ask(rng, sign, "read"))}
    assert golds == {"Open DAILY", "Open", "DAILY"}
    described = [exchange for _ in range(100) if (exchange := ask(rng, sign, "describe"))]
    assert all(right(exchange, sign, exchange.answer) for exchange in described)


def test_an_outline_has_dark_lines_on_white_inside_the_drawing():
    drawing = Image.new("RGBA", (112, 112))
    ImageDraw.Draw(drawing).ellipse((10, 10, 100, 100), fill=(220, 30, 30, 255))
    drawn = np.asarray(outline(drawing))
    assert drawn[56, 56, :3].min() > 240, "the red is gone"
    assert drawn[56, 10:13, :3].min() < 60, "the border is drawn"
    assert drawn[2, 2, 3] == 0
    assert np.ptp(drawn[..., :3].astype(int), axis=-1).max() < 10


def test_flags_and_hands_are_never_mirrored_and_flags_keep_their_colours():
    rng = random.Random(6)
    things = [thing for _ in range(4000) for thing in sample_scene(rng, want="several").things]
    flags = [thing for thing in things if thing.kind in BY_NAME and BY_NAME[thing.kind].category == "flag"]
    assert len(flags) > 100
    assert not [thing for thing in flags if thing.mirrored or thing.look != "colours"]
    assert {thing.look for thing in things} == {"colours", "outline", "one colour"}
