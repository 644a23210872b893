"""The judge of replies: gold answers are right, corrupted ones wrong, and other wordings are read for what they claim."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from training.figures import FIGURES, QUESTIONS
from training.kinds import BY_NAME, COLOURS, KINDS, MOODS, NUMBERS, REGIONS, TEXT, UNKNOWN, UNKNOWNS
from training.sampling import sample_scene
from training.scenes import Scene, Thing
from training.talk import KINDS_OF_QUESTION, Exchange, ask, conversation, small_talk
from training.talk.claims import Mention, claims
from training.talk.truth import false_mentions, mentions, right, says_yes
from training.talk.without_picture import KINDS_OF_SMALL_TALK

DOG = Thing("dog", None, (0.05, 0.4, 0.25, 0.6))
CAT = Thing("cat", None, (0.75, 0.4, 0.95, 0.6))
RED_STAR = Thing("star", "red", (0.4, 0.02, 0.6, 0.2))
STOP = Thing(TEXT, "blue", (0.3, 0.75, 0.7, 0.95), text="STOP")
PETS = Scene((DOG, RED_STAR, CAT), "white", 300, 300, 0)
SIGN = Scene((STOP,), "yellow", 300, 300, 0)


def pictured(count: int, seed: int) -> list[tuple[Scene, Exchange]]:
    """Exchanges about random scenes, of every kind and as follow-ups."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        kind = KINDS_OF_QUESTION[number % len(KINDS_OF_QUESTION)]
        # Questions about figures and moods need a picture of one; other kinds of questions are asked about any picture.
        scene = sample_scene(rng, rng.choice(("train", "test")), "figure" if kind in QUESTIONS else "")
        if kind == "mood":
            face = Thing(f"{rng.choice(MOODS)} face", None, (0.3, 0.3, 0.7, 0.7))
            scene = Scene((face,), "white", 300, 300, 0, split=scene.split)
        exchange = ask(rng, scene, kind, ("green", "brown"))
        found += [(scene, one) for one in (exchange, *conversation(rng, scene, 2)) if one is not None]
    return found


def another(word: str, words: list[str], rng: random.Random) -> str:
    return rng.choice([other for other in words if other != word])


def figure_corrupted(exchange: Exchange, text: str) -> str:
    """The answer to the same question about another figure of the kind."""
    figure, question = QUESTIONS[exchange.kind]
    rng = random.Random(text)
    while True:
        answer = question.answer(rng, FIGURES[figure].sample(rng))
        if answer is not None and answer[1] != exchange.gold:
            return answer[0]


def corrupted(exchange: Exchange, scene: Scene | None, rng: random.Random) -> str | None:
    """The answer made false in what it was asked for; None where the answer has no such word to change."""
    answer, gold = exchange.answer, exchange.gold
    if exchange.kind in QUESTIONS:
        assert scene is not None
        figure, _ = QUESTIONS[exchange.kind]
        return figure_corrupted(exchange, next(thing.text for thing in scene.things if thing.kind == figure))
    if exchange.kind == "mood":
        return re.sub(rf"\b{gold}\b", another(gold, list(MOODS), rng), answer, flags=re.IGNORECASE)
    if isinstance(gold, bool):
        return ("No" if answer.startswith("Yes") else "Yes") + answer[3 if answer.startswith("Yes") else 2 :]
    if exchange.kind == "count":
        if answer.startswith("None"):
            return "Two."
        return re.sub(
            rf"\b{NUMBERS[gold]}\b",
            another(NUMBERS[gold], list(NUMBERS), rng),
            answer,
            count=1,
            flags=re.IGNORECASE,
        )
    if exchange.kind == "where":
        if not gold:
            return "It is at the top left."
        return re.sub(str(gold), another(str(gold), list(REGIONS.values()), rng), answer, flags=re.IGNORECASE)
    if exchange.kind in ("colour", "background") and gold in COLOURS:
        return re.sub(rf"\b{gold}\b", another(str(gold), list(COLOURS), rng), answer, flags=re.IGNORECASE)
    if exchange.kind == "colour":
        return "It is red."
    if exchange.kind == "background":
        return "The background is a sandy beach." if gold != "a sandy beach" else "A night sky."
    if exchange.kind == "read":
        return answer.replace(f'"{gold}"', f'"{gold}X"') if gold else 'It says "STOP".'
    if exchange.kind == "relation" and isinstance(gold, str):
        return re.sub(gold, {"left of": "above", "above": "left of"}.get(gold, "left of"), answer, flags=re.IGNORECASE)
    if exchange.kind in ("cannot", "no_image", "foreign", "out_of_scope", "thanks", "joke", "recipe", "made", "can"):
        return "It is a small snail."
    if exchange.kind in ("greeting", "how_are_you", "bye", "who", "llama"):
        return "Two red stars."
    if exchange.kind in ("capital", "famous", "fact"):
        return "It is Atlantis."
    if exchange.kind == "sum":
        return re.sub(r"\d+(?=\.)", str(int(str(gold)) + 1), answer)
    if exchange.kind == "told":
        return f"It is {answer.split('. ')[0].removesuffix('.')}" if not gold else answer.replace(str(gold), "planet")
    return without_truth(exchange, scene, rng)


def without_truth(exchange: Exchange, scene: Scene | None, rng: random.Random) -> str | None:
    """The answer with something added or replaced that is not in the picture."""
    assert scene is not None
    absent = [kind for kind in KINDS if scene.count(kind.name) == 0]
    wrong = rng.choice(absent)
    answer = exchange.answer
    if not exchange.gold:
        return f"There is {wrong.article} {wrong.name}."
    if exchange.kind == "sure":
        return "No."
    for kind, _, count in exchange.gold:
        if kind == TEXT or kind in UNKNOWNS:
            continue
        name = BY_NAME[kind].many if count > 1 else kind
        changed = re.sub(rf"\b{name}\b", wrong.many if count > 1 else wrong.name, answer, flags=re.IGNORECASE)
        if changed != answer:
            return changed
    return f"{answer} I see {wrong.article} {wrong.name}."


@pytest.mark.slow
def test_every_gold_answer_about_three_thousand_pictures_is_judged_right() -> None:
    wrong = [(exchange, scene) for scene, exchange in pictured(3000, 1) if not right(exchange, scene, exchange.answer)]
    assert not wrong, wrong[:3]


def test_every_gold_answer_of_small_talk_is_judged_right() -> None:
    rng = random.Random(2)
    for number in range(1500):
        kind = KINDS_OF_SMALL_TALK[number % len(KINDS_OF_SMALL_TALK)]
        exchange = small_talk(rng, kind, rng.choice(("train", "test")))
        assert right(exchange, None, exchange.answer), exchange


def test_corrupted_answers_about_pictures_are_judged_wrong() -> None:
    rng = random.Random(3)
    judged: Counter[str] = Counter()
    for scene, exchange in pictured(1500, 4):
        if exchange.kind in KINDS_OF_SMALL_TALK:
            continue
        reply = corrupted(exchange, scene, rng)
        if reply is None or reply == exchange.answer:
            continue
        judged[exchange.kind] += 1
        assert not right(exchange, scene, reply), (exchange, reply, scene)
    assert set(judged) >= set(KINDS_OF_QUESTION) | {"foreign", "else", "sure"}
    assert min(judged.values()) >= 10


def test_corrupted_answers_of_small_talk_are_judged_wrong() -> None:
    rng = random.Random(5)
    for number in range(800):
        exchange = small_talk(rng, KINDS_OF_SMALL_TALK[number % len(KINDS_OF_SMALL_TALK)])
        reply = corrupted(exchange, None, rng)
        assert reply is not None
        assert not right(exchange, None, reply), (exchange, reply)


def test_no_answer_but_an_empty_one_about_nothing_is_wrong_everywhere() -> None:
    for scene, exchange in pictured(60, 6):
        assert not right(exchange, None if exchange.kind in KINDS_OF_SMALL_TALK else scene, " ")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A big red star next to two cats.", [("star", "red", 1), ("cat", None, 2)]),
        ("I see 3 dogs and an umbrella!", [("dog", None, 3), ("umbrella", None, 1)]),
        ("There is no snowman here.", [("snowman", None, 0)]),
        ("I do not see a light bulb, only ice creams.", [("light bulb", None, 0), ("ice cream", None, None)]),
        ("The stars are all blue.", [("star", "blue", None)]),
        ("The background is red. It shows the dog.", [("dog", None, None)]),
        ("six fish on a green meadow", [("fish", None, 6)]),
        ("An orange heart on an orange background.", [("heart", "orange", 1)]),
        ("It is something I do not know and a soccer ball.", [(UNKNOWN, None, 1), ("soccer ball", None, 1)]),
        ("This is an animal I do not know.", [("unknown animal", None, 1)]),
        (
            "I see food I do not know and a piece of clothing that I cannot name.",
            [("unknown food", None, 1), ("unknown clothing", None, 1)],
        ),
        ("Two French flags and a Christmas tree.", [("French flag", None, 2), ("Christmas tree", None, 1)]),
        ("I cannot tell the color of a dog, only of shapes and text.", [("dog", None, 1)]),
        ('The sign says "TWO RED DOGS".', []),
        ("The image shows the grey cross.", [("cross", "gray", None)]),
    ],
)
def test_mentions_are_read_with_colour_and_count(reply: str, expected: list[tuple[str, str | None, int | None]]) -> None:
    assert mentions(reply) == [Mention(*each) for each in expected]


@pytest.mark.parametrize(
    "reply",
    [
        "A dog, a red star and a cat.",
        "There's a cat to the right of the dog. The star is at the top, it is red.",
        "On a white background you can see one dog and one cat. There is no text.",
        "The dog is on the left of the picture and the star is above it.",
        "Left of the cat there is a dog.",
        "I can see three things, no banana.",
    ],
)
def test_what_is_so_is_no_false_mention(reply: str) -> None:
    assert false_mentions(reply, PETS) == []


@pytest.mark.parametrize(
    ("reply", "false"),
    [
        ("Two dogs and a cat.", "2 dog"),
        ("A blue star.", "1 blue star"),
        ("The star is blue.", "blue star"),
        ("A dog and a banana.", "1 banana"),
        ("There is no dog.", "0 dog"),
        ("The dog is on the right.", "dog on the right"),
        ("The dog is right of the cat.", "dog right of cat"),
        ("Above the star there is a dog.", "dog above star"),
        ("A dog on a black background.", "black"),
        ("The background is plain red.", "red"),
        ("A cat on a sandy beach.", "a sandy beach"),
        ('A dog and the text "HI".', '"HI"'),
        ("The text is at the top.", "text"),
        ("A dog and something I do not know.", "1 unknown thing"),
    ],
)
def test_what_is_not_so_is_named(reply: str, false: str) -> None:
    assert false in false_mentions(reply, PETS)


def test_a_place_near_a_border_is_given_the_benefit_of_the_doubt() -> None:
    near = Thing("dog", None, (0.25, 0.4, 0.45, 0.6))
    assert near.region is None
    scene = Scene((near,), "white", 300, 300, 0)
    assert false_mentions("The dog is on the left.", scene) == []
    assert false_mentions("The dog is in the center.", scene) == []
    assert false_mentions("The dog is on the right.", scene) == ["dog on the right"]


def test_a_grey_picture_shows_no_red_star() -> None:
    grey = Scene((Thing("star", None, (0.4, 0.4, 0.6, 0.6)),), "gray", 300, 300, 0, grey=True)
    assert false_mentions("A star.", grey) == []
    assert false_mentions("A red star.", grey) == ["1 red star"]


@pytest.mark.parametrize(
    ("kind", "gold", "about", "good", "bad"),
    [
        ("count", 1, "dog", "I count only one.", "I count two."),
        ("count", 1, "dog", "There is 1 dog.", "There is one cat and two dogs."),
        ("count", 0, "", "I do not see any banana.", "A banana."),
        ("where", "on the left", "dog", "On the left side of the image.", "It is left of the cat."),
        ("count", 3, "", "Three things in all.", "Two or three things."),
        ("where", "on the left", "dog", "On the left.", "On the left or at the top."),
        ("where", "at the top", "star", "You will find it at the very top.", "In the top left corner."),
        ("colour", "red", "star", "It's a red star.", "Red and blue."),
        ("colour", "red", "star", "Red, on a white background.", "White."),
        ("yesno", True, "dog", "Yes!", "No, there is a dog."),
        ("yesno", False, "", "There is no banana.", "There is a banana."),
        ("relation", "left of", "dog", "To the left of the cat.", "It is above the cat."),
        ("relation", (("dog", None, 1),), "dog", "A dog is left of the cat.", "A cat is left of the dog."),
        ("extreme", (("star", "red", 1),), "star", "There is a red star at the top.", "A star."),
        (
            "what",
            (("dog", None, 1), ("star", "red", 1), ("cat", None, 1)),
            "",
            "A cat, a dog and a red star.",
            "A cat and a dog.",
        ),
        ("background", "white", "", "Everything is on a white background.", "Black."),
        ("read", "", "", "I cannot see any text.", 'It says "DOG".'),
        ("category", True, "", "Yes, two of them.", "Nope."),
        ("category", (("dog", None, 1), ("cat", None, 1)), "", "A cat and a dog.", "A cat, a dog and a star."),
        ("cannot", None, "", "Sorry, I do not know that.", "It was made by the cat."),
        ("else", (("cat", None, 1),), "cat", "Yes, I also see the cat.", "Yes, a bird."),
    ],
)
def test_other_wordings_are_judged_by_what_they_say(kind: str, gold: object, about: str, good: str, bad: str) -> None:
    exchange = Exchange(kind, "", "", gold, about)
    assert right(exchange, PETS, good)
    assert not right(exchange, PETS, bad)


def test_read_text_counts_in_any_case_and_without_quotes() -> None:
    exchange = Exchange("read", "", "", "STOP", TEXT)
    assert right(exchange, SIGN, 'I read "stop" in blue.')
    assert right(exchange, SIGN, "It says STOP.")
    assert not right(exchange, SIGN, 'It says "STOPS".')
    assert not right(exchange, SIGN, "It says nothing.")


def test_a_foreign_picture_is_not_recognised_in_either_spelling_and_nothing_is_named() -> None:
    scene = Scene((), "gray", 300, 300, 0, foreign="photo")
    exchange = Exchange("foreign", "", "", ("green",))
    assert right(exchange, scene, "I do not recognise this; it is mostly green.")
    assert right(exchange, scene, "I don't recognize this.")
    assert not right(exchange, scene, "I do not recognize this, maybe a dog.")
    assert not right(exchange, scene, "It is mostly green.")


def test_beyond_its_reach_a_reply_must_say_what_it_is_and_what_to_load() -> None:
    exchange = Exchange("out_of_scope", "", "")
    assert right(exchange, None, "I'm a tiny demo model; try Llama 3.2 with --model-path.")
    assert not right(exchange, None, "I am a tiny demo model.")
    assert not right(exchange, None, "Load Llama 3.2.")


def test_yes_and_no_are_read_from_the_first_words() -> None:
    assert says_yes("Yes, there is no cat.") is True
    assert says_yes("No, there is a cat.") is False
    assert says_yes("There are no cats.") is False
    assert says_yes("I can see a cat.") is True
    assert says_yes("Seven.") is None


def test_claims_part_the_named_from_the_reference() -> None:
    said = claims("A dog is left of the cat. The star is at the bottom right.")
    assert [mention.kind for mention in said.mentions] == ["dog", "star"]
    assert [mention.kind for mention in said.references] == ["cat"]
    assert said.sides == (("dog", "left of", "cat"),)
    assert said.places == (("star", "at the bottom right"),)
