"""What the training set says of a scene is true, in single questions and in conversations."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict

import pytest

from tests.support.training_exchanges import DOG, EXCHANGES, PETS, STARS, asked
from training.kinds import BY_NAME, COLOURS, KINDS, MAX_COUNT, TEXT, UNKNOWN
from training.sampling import sample_scene
from training.scenes import SIDE_MARGIN, Scene, Thing, in_grey
from training.talk import KINDS_OF_QUESTION, Exchange, ask, conversation, small_talk
from training.talk.claims import Mention, claims, sides
from training.talk.followups import follow_up
from training.talk.truth import false_mentions, right, says_yes

CAT_IN_THE_MIDDLE = Thing("cat", None, (0.4, 0.4, 0.6, 0.6))
BLANK = Scene((), "pink", 300, 300, 0)
STRANGE = Scene((Thing(UNKNOWN, None, (0.3, 0.3, 0.7, 0.7)),), "white", 300, 300, 0)
PHOTO = Scene((), "gray", 300, 300, 0, foreign="photo")


# --- what the scene allows -----------------------------------------------------------------------------------------------


def test_yes_and_no_are_balanced_where_both_are_possible() -> None:
    rng = random.Random(5)
    golds: dict[str, list[object]] = defaultdict(list)
    for _ in range(1500):
        scene = sample_scene(rng, want="several")
        for kind in ("yesno", "relation"):
            exchange = ask(rng, scene, kind)
            if exchange is not None and isinstance(exchange.gold, bool):
                golds[kind].append(exchange.gold)
    for found in golds.values():
        assert 0.45 < sum(map(bool, found)) / len(found) < 0.55


def test_all_counts_from_none_to_six_are_asked() -> None:
    rng = random.Random(6)
    golds = Counter()
    for _ in range(1500):
        exchange = ask(rng, sample_scene(rng, want="count"), "count")
        golds.update([exchange.gold] if exchange else [])
    assert set(golds) == set(range(MAX_COUNT + 1))
    assert min(golds.values()) > sum(golds.values()) / 25


def test_a_place_is_not_asked_near_a_border_or_of_one_of_many() -> None:
    near = Thing("dog", None, (0.25, 0.4, 0.45, 0.6))
    assert near.region is None
    for scene in (Scene((near,), "white", 300, 300, 0), STARS):
        assert all(exchange.gold == "" for exchange in asked(scene, "where"))


def test_sides_are_not_asked_of_things_that_are_nearly_level() -> None:
    for exchange in asked(PETS, "relation", count=300):
        text = f"{exchange.question} {exchange.answer}".lower()
        assert not re.search(r"\b(?:above|below|over|under)\b", text) or exchange.gold is False or exchange.gold == ()
    close = Scene((DOG, Thing("cat", None, (0.12, 0.4, 0.32, 0.6))), "white", 300, 300, 0)
    assert abs(close.things[0].centre[0] - close.things[1].centre[0]) < SIDE_MARGIN
    assert list(asked(close, "relation")) == []


def test_an_open_side_is_not_asked_along_a_diagonal() -> None:
    diagonal = Scene((Thing("dog", None, (0.1, 0.1, 0.3, 0.3)), Thing("cat", None, (0.6, 0.6, 0.8, 0.8))), "white", 300, 300, 0)
    golds = [exchange.gold for exchange in asked(diagonal, "relation", count=300)]
    assert all(isinstance(gold, bool) or gold == () for gold in golds)


def test_colours_of_drawings_and_in_grey_pictures_are_not_claimed() -> None:
    assert {exchange.gold for exchange in asked(PETS, "colour", count=200)} <= {None, ""}
    grey = in_grey(STARS)
    for kind in KINDS_OF_QUESTION:
        for exchange in asked(grey, kind, count=30):
            assert kind == "extreme" or false_mentions(exchange.answer, grey) == []
            assert not re.search(r"\b(?:red|green)\b", exchange.answer), exchange


def test_an_empty_picture_is_called_empty() -> None:
    for kind in ("what", "describe"):
        assert all(re.search("plain pink background", exchange.answer) for exchange in asked(BLANK, kind))
    assert all(exchange.gold == 0 for exchange in asked(BLANK, "count"))
    assert all(exchange.gold is False for exchange in asked(BLANK, "yesno"))
    assert all(exchange.gold == "" for exchange in asked(BLANK, "read"))


def test_an_unknown_thing_is_never_given_a_name() -> None:
    for kind in KINDS_OF_QUESTION:
        for exchange in asked(STRANGE, kind, count=40):
            assert right(exchange, STRANGE, exchange.answer)
            if kind in ("what", "single"):
                assert "do not know" in exchange.answer
    assert list(asked(STRANGE, "category")) == [exchange for exchange in asked(STRANGE, "category") if exchange.gold is True]


@pytest.mark.parametrize("kind", ["", *KINDS_OF_QUESTION])
def test_a_foreign_picture_is_not_recognized_whatever_is_asked(kind: str) -> None:
    rng = random.Random(8)
    for _ in range(20):
        exchange = ask(rng, PHOTO, kind, ("green", "brown"))
        assert exchange is not None
        assert exchange.kind == "foreign"
        assert "do not recognize" in exchange.answer
        assert "tiny demo model" in exchange.answer
        assert "mostly green and brown" in exchange.answer


def test_without_seen_colours_a_foreign_picture_is_only_not_recognized() -> None:
    assert not [exchange for exchange in asked(PHOTO, "what") if "mostly" in exchange.answer]


def test_words_in_the_picture_are_read_letter_by_letter_in_quotes() -> None:
    sign = Scene((Thing(TEXT, "blue", (0.2, 0.4, 0.8, 0.6), text="QU4X"),), "white", 300, 300, 0)
    assert all('"QU4X"' in exchange.answer for exchange in asked(sign, "read"))
    assert all('"QU4X"' in exchange.answer for exchange in asked(sign, "what"))


def test_the_training_mix_always_finds_a_question() -> None:
    rng = random.Random(9)
    for scene in (PETS, STARS, BLANK, STRANGE, PHOTO):
        assert all(ask(rng, scene) is not None for _ in range(100))


def test_hard_visual_questions_dominate_the_training_mix() -> None:
    rng = random.Random(10)
    kinds = Counter(exchange.kind for _ in range(3000) if (exchange := ask(rng, sample_scene(rng))))
    hard = sum(kinds[kind] for kind in ("what", "describe", "count", "where", "relation", "read", "yesno"))
    assert hard > 0.65 * kinds.total()
    assert min(kinds[kind] for kind in ("what", "describe", "count", "where", "relation", "read", "yesno")) > 0.06 * kinds.total()


# --- conversations -------------------------------------------------------------------------------------------------------


def test_later_questions_say_it_of_the_thing_before() -> None:
    rng = random.Random(11)
    last = Exchange("where", "Where is the dog?", "The dog is on the left.", "on the left", "dog")
    found = [exchange for _ in range(300) if (exchange := follow_up(rng, PETS, last))]
    assert {exchange.kind for exchange in found} >= {"where", "count", "else", "relation", "category", "sure", "story", "colour"}
    assert any(re.search(r"\bit\b.*left of the cat", exchange.question) for exchange in found)
    assert any(re.fullmatch(r"(?i)(what|how) about the cat\?", exchange.question) for exchange in found)
    assert all(right(exchange, PETS, exchange.answer) for exchange in found)


def test_later_questions_know_what_it_is_and_what_else_there_is() -> None:
    rng = random.Random(21)
    last = Exchange("where", "Where is the dog?", "The dog is on the left.", "on the left", "dog")
    found = [exchange for _ in range(400) if (exchange := follow_up(rng, PETS, last))]
    kinds = [exchange for exchange in found if exchange.kind == "category"]
    assert {exchange.gold for exchange in kinds} == {True, False}
    assert all(exchange.gold is ("animal" in exchange.question) for exchange in kinds)
    assert {exchange.gold for exchange in found if exchange.kind == "else"} == {(("cat", None, 1),)}
    assert all(exchange.gold is ("left" in exchange.question) for exchange in found if exchange.kind == "relation")


def test_nothing_is_called_it_when_several_things_were_named() -> None:
    rng = random.Random(12)
    last = Exchange("what", "What is this?", "A dog and a cat.", (("dog", None, 1), ("cat", None, 1)))
    assert follow_up(rng, PETS, last) is None


def test_conversations_have_as_many_turns_as_asked_for() -> None:
    rng = random.Random(13)
    for turns in range(1, 6):
        assert len(conversation(rng, PETS, turns)) == turns
        assert len(conversation(rng, None, turns)) == turns


def test_with_a_picture_nobody_is_asked_for_one() -> None:
    rng = random.Random(14)
    for _ in range(400):
        for exchange in conversation(rng, PETS, 3):
            assert exchange.kind != "no_image"
            assert not re.search(r"(?i)\bupload\b|show me an image", exchange.answer), exchange


def test_without_a_picture_any_question_about_one_asks_for_it() -> None:
    rng = random.Random(15)
    found = [small_talk(rng, "no_image", split) for split in ("train", "test") for _ in range(200)]
    assert all(right(exchange, None, exchange.answer) for exchange in found)
    assert len({exchange.question for exchange in found}) > 300


def test_sums_stay_within_reach_and_are_right() -> None:
    rng = random.Random(16)
    for _ in range(500):
        exchange = small_talk(rng, "sum")
        first, second, *_ = map(int, re.findall(r"\d+", exchange.question))
        assert int(str(exchange.gold)) in (first + second, first - second, second - first, first * second)
        assert 0 <= int(str(exchange.gold)) <= 100


def test_the_kinds_named_in_stories_are_those_of_the_picture() -> None:
    for exchange in asked(PETS, "story", count=300):
        assert false_mentions(exchange.answer, PETS) == []
        assert "dog" in exchange.answer or "cat" in exchange.answer


def test_every_answer_begins_with_yes_or_no_when_that_is_asked() -> None:
    for exchange in EXCHANGES:
        if isinstance(exchange.gold, bool):
            assert says_yes(exchange.answer) is exchange.gold
            assert exchange.answer.startswith(("Yes", "No"))


def test_all_kinds_can_be_spoken_of() -> None:
    rng = random.Random(17)
    for kind in KINDS:
        thing = Thing(kind.name, "blue" if kind.is_shape else None, (0.1, 0.1, 0.2, 0.2))
        scene = Scene((thing,), "white", 300, 300, 0)
        for question in ("what", "describe", "count", "where", "single", "story"):
            exchange = ask(rng, scene, question)
            assert exchange is not None
            assert right(exchange, scene, exchange.answer), exchange
    assert BY_NAME["fish"].many == "fish"


# --- what is held true is so, read from the question alone ---------------------------------------------------------------


def seen_in(scene: Scene, kind: str) -> list[Thing]:
    return [thing for thing in scene.things if thing.kind == kind]


def place(question: str, kind: str) -> int:
    """Where the kind stands in the question."""
    found = re.search(rf"\b(?:{kind}|{BY_NAME[kind].many if kind in BY_NAME else kind})\b", question, re.IGNORECASE)
    return found.start() if found else -1


def spoken_of(exchange: Exchange) -> list[Mention]:
    said = claims(exchange.question.replace("?", "").replace(":", ""))
    found = {mention: place(exchange.question, mention.kind) for mention in (*said.mentions, *said.references)}
    return sorted(found, key=lambda mention: found[mention])


def test_a_side_is_affirmed_exactly_when_the_centres_say_so() -> None:
    rng = random.Random(18)
    checked = 0
    for _ in range(1500):
        scene = sample_scene(rng, want="several")
        exchange = ask(rng, scene, "relation")
        if exchange is None or not isinstance(exchange.gold, bool):
            continue
        (side,) = sides(exchange.question)
        axis, sign = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}[side]
        one, other = (seen_in(scene, mention.kind)[0].centre[axis] for mention in spoken_of(exchange))
        assert abs(one - other) >= SIDE_MARGIN
        assert exchange.gold is (sign * (other - one) > 0), (exchange, scene)
        checked += 1
    assert checked > 300


def test_presence_is_affirmed_exactly_when_the_thing_is_there() -> None:
    rng = random.Random(19)
    checked = 0
    for _ in range(1500):
        scene = sample_scene(rng)
        exchange = None if scene.foreign else ask(rng, scene, "yesno")
        if exchange is None:
            continue
        (asked_for,) = spoken_of(exchange)
        tint = asked_for.colour or next(
            (word for word in re.findall(r"[a-z]+", exchange.question.lower()) if word in COLOURS), None
        )
        there = [thing for thing in seen_in(scene, asked_for.kind) if tint in (None, thing.colour)]
        many = asked_for.count if asked_for.count and asked_for.count > 1 else None
        assert exchange.gold is (len(there) == many if many else bool(there)), (exchange, scene)
        checked += 1
    assert checked > 900


def test_the_counted_and_the_placed_are_as_in_the_scene() -> None:
    rng = random.Random(20)
    for _ in range(1200):
        scene = sample_scene(rng)
        if scene.foreign:
            continue
        for exchange in (ask(rng, scene, "count"), ask(rng, scene, "where"), ask(rng, scene, "colour")):
            named_kinds = spoken_of(exchange) if exchange else []
            if exchange is None or not named_kinds:
                continue  # of all things, or of all animals
            there = seen_in(scene, named_kinds[0].kind)
            if exchange.kind == "count":
                assert exchange.gold == len(there)
            elif exchange.kind == "where":
                assert exchange.gold == (there[0].region if there else "")
            elif exchange.gold is not None:
                assert exchange.gold == (there[0].colour if there else "")


def test_only_a_thing_clearly_outermost_is_said_to_be_at_that_side() -> None:
    level = Scene((Thing("dog", None, (0.1, 0.4, 0.3, 0.6)), Thing("cat", None, (0.15, 0.7, 0.35, 0.9))), "white", 300, 300, 0)
    assert not [one for one in asked(level, "extreme", count=300) if re.search(r"on the (left|right)\b", one.question.lower())]
    answered = [one for one in asked(PETS, "extreme", count=300) if re.search(r"on the right\b", one.question.lower())]
    assert answered
    assert all(one.gold == (("cat", None, 1),) for one in answered)


def test_no_animal_is_denied_where_people_would_disagree() -> None:
    carrot = Scene((Thing("carrot", None, (0.4, 0.4, 0.6, 0.6)),), "white", 300, 300, 0)
    assert not [one for one in asked(carrot, "category", count=300) if "plant" in one.question]
    assert [one for one in asked(carrot, "category", count=300) if "vehicle" in one.question and one.gold is False]


def test_of_several_equal_things_not_only_some_are_said_to_be_at_a_side() -> None:
    fish = [Thing("fish", None, (x, 0.45, x + 0.1, 0.55)) for x in (0.02, 0.88)]
    dog = Thing("dog", None, (0.45, 0.02, 0.55, 0.12))
    both = Scene((fish[0], CAT_IN_THE_MIDDLE, dog, fish[1]), "white", 300, 300, 0)
    answers = [one.answer for one in asked(both, "relation", count=300)]
    assert answers
    assert not [answer for answer in answers if "fish" in answer]


def test_food_is_denied_without_an_article() -> None:
    answers = [one.answer for one in asked(STARS, "category", count=300) if "food" in one.question]
    assert any("food" in answer for answer in answers)
    assert not any("a food" in answer for answer in answers)
