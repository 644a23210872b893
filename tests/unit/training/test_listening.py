"""Labels of what is mentioned: found in the text, looked up in the scene, at the right token."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mllama_demo.chat.tokenizer import Tokenizer
from training.dialogue import ChatFormat
from training.kinds import COLOURS, KINDS, MAX_COUNT, REGIONS
from training.labels import IGNORE
from training.listening import BINS, LOOKUPS, Mention, look_up, mentions, word_list
from training.scenes import Scene, Thing, in_grey
from training.talk.exchange import Exchange

SCENE = Scene(
    (
        Thing("circle", "red", (0.0, 0.0, 0.2, 0.2)),
        Thing("dog", None, (0.4, 0.4, 0.6, 0.6)),
        Thing("circle", "blue", (0.8, 0.8, 1.0, 1.0)),
    ),
    "white",
    300,
    300,
    1,
)


def found(kind: str, colour: str | None = None, scene: Scene = SCENE) -> dict[str, int]:
    return {
        name: int(value) for name, value in zip(LOOKUPS, look_up(scene, Mention(0, kind, colour)), strict=True) if value != IGNORE
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is there a dog?", [("dog", None, "Is there a dog")]),
        ("two red circles and Dogs", [("circle", "red", "two red circles"), ("dog", None, "two red circles and Dogs")]),
        ("the ice cream", [("ice cream", None, "the ice cream")]),
        ("a hotdog, catfish", []),
        ('It says "DOG".', []),
        ("What does the text say?", [("text", None, "What does the text")]),
    ],
)
def test_mentions_end_where_the_word_ends(text, expected):
    assert [(hit.kind, hit.colour, text[: hit.end]) for hit in mentions(text)] == expected


def test_one_thing_is_looked_up_with_its_place():
    centre = list(REGIONS).index((1, 1))
    assert found("dog") == {"there": 1, "count": 1, "region": centre, "column": BINS // 2, "row": BINS // 2}


def test_a_colour_narrows_the_search():
    top_left, red = list(REGIONS).index((0, 0)), list(COLOURS).index("red")
    assert found("circle", "red") == {"there": 1, "count": 1, "region": top_left, "colour": red, "column": 0, "row": 0}
    assert found("circle", "green") == {"there": 0, "count": 0}


def test_of_several_only_the_number_is_known():
    assert found("circle") == {"there": 1, "count": 2}


def test_what_cannot_be_said_has_no_label():
    assert found("dog", "brown") == {}, "a drawing has no one colour"
    assert found("circle", "red", in_grey(SCENE)) == {}
    assert found("dog", scene=Scene((), "gray", 100, 100, 1, foreign="noise")) == {}


def test_more_than_can_be_counted_is_the_most():
    crowd = Scene(tuple(Thing("dog", None, (0, 0, 0.1, 0.1)) for _ in range(9)), "white", 300, 300, 1)
    assert found("dog", scene=crowd)["count"] == MAX_COUNT


def test_about_half_of_a_word_list_is_in_the_picture():
    listed = mentions(word_list(random.Random(3), SCENE, 400))
    assert len(listed) == 400
    things = [hit for hit in listed if hit.kind]
    assert 0.7 < len(things) / 400 < 0.9, "the others are places"
    assert 0.4 < np.mean([look_up(SCENE, hit)[0] == 1 for hit in things]) < 0.6


def asked(text: str) -> dict[str, int]:
    """The labels of the last mention of a text."""
    return {name: int(value) for name, value in zip(LOOKUPS, look_up(SCENE, mentions(text)[-1]), strict=True) if value != IGNORE}


KIND_NAMES = [*(kind.name for kind in KINDS), "text"]


@pytest.mark.parametrize(
    ("text", "across", "down"),
    [
        ("Is the red circle left of the dog?", 0, 0),
        ("the blue circle, a dog", 1, 1),
        ("Is the cat above the dog?", None, None),
        ("Is the circle above the dog?", None, None),
        ("the dog and the dog", None, None),
    ],
)
def test_a_second_mention_is_related_to_the_one_before(text, across, down):
    labels = asked(text)
    assert (labels.get("across"), labels.get("down")) == (across, down)


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("What is at the top left?", "circle"),
        ("what can you see in the centre", "dog"),
        ("What is at the top right of the picture?", "nothing"),
        ("The dog is at the top left.", None),
        ("What is left of the dog?", None),
    ],
)
def test_a_place_or_a_side_that_is_asked_about_is_looked_up(text, who):
    assert asked(text).get("who") == (None if who is None else [*KIND_NAMES, "nothing"].index(who))


@pytest.mark.parametrize(("side", "who"), [("to the left of", "star"), ("on the right of", "nothing"), ("above", "nothing")])
def test_what_is_beside_a_thing_is_looked_up(side, who):
    row = Scene((Thing("star", "red", (0.0, 0.4, 0.2, 0.6)), Thing("dog", None, (0.7, 0.4, 0.9, 0.6))), "white", 300, 300, 1)
    labels = look_up(row, mentions(f"What is {side} the dog?")[-1])
    assert labels[tuple(LOOKUPS).index("who")] == [*KIND_NAMES, "nothing"].index(who)


def test_a_mention_lies_on_its_last_token(embedded):
    tokenizer = Tokenizer(embedded)
    row = ChatFormat(tokenizer).encode([Exchange("yesno", "Is there a snowman — or an owl?", "Yes, a snowman.")], 0)
    ends = [(tokenizer.decode(row.ids[: at + 1]).rpartition("user")[2], hit.kind) for at, hit in row.mentions]
    assert [kind for _, kind in ends] == ["snowman", "owl", "snowman"]
    assert ends[0][0].endswith("snowman")
    assert ends[1][0].endswith("an owl")


def test_a_list_is_cut_to_the_limit_with_its_mentions(embedded):
    row = ChatFormat(Tokenizer(embedded)).encode_list(", ".join(["dog"] * 100), 50)
    assert len(row.ids) == 50
    assert row.mentions
    assert all(at < 50 for at, _ in row.mentions)
    assert set(row.labels) == {IGNORE}


@pytest.mark.parametrize(
    ("exchange", "expected"),
    [
        (Exchange("yesno", "Is there a red circle?", "No."), ("circle", "red")),
        (Exchange("colour", "What color is it?", "Blue.", about="star"), ("star", None)),
        (Exchange("relation", "Is the dog left of the cat?", "Yes.", about="dog"), ("cat", None)),
        (Exchange("count", "Are there more dogs than cats?", "Yes."), None),
        (Exchange("greeting", "Hi!", "Hello!"), None),
    ],
)
def test_where_the_answer_begins_its_topic_is_known_again(embedded, exchange, expected):
    tokenizer = Tokenizer(embedded)
    row = ChatFormat(tokenizer).encode([exchange], 0)
    first = next(index for index, label in enumerate(row.labels) if label != IGNORE)
    topics = [(hit.kind, hit.colour) for at, hit in row.mentions if at == first - 1]
    assert topics == ([expected] if expected else [])
