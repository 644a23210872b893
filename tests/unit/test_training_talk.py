"""The language of the training set: true, grammatical, varied, and kept apart for training and test."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest

from training.kinds import BY_NAME, COLOURS, KINDS, MAX_COUNT, TEXT, UNKNOWN
from training.scenes import SIDE_MARGIN, Scene, Thing, in_grey, sample_scene
from training.talk import KINDS_OF_QUESTION, Exchange, ask, conversation, small_talk
from training.talk.claims import Mention, claims, sides
from training.talk.exchange import Pool, careless, meaning, read_pools
from training.talk.followups import follow_up
from training.talk.out_of_scope import FILLERS, TEMPLATES
from training.talk.phrases import groups, named, with_article
from training.talk.questions import QUESTIONS
from training.talk.truth import false_mentions, right, says_yes
from training.talk.without_picture import KINDS_OF_SMALL_TALK

DOG = Thing("dog", None, (0.05, 0.42, 0.25, 0.62))
CAT = Thing("cat", None, (0.75, 0.4, 0.95, 0.6))
CAT_IN_THE_MIDDLE = Thing("cat", None, (0.4, 0.4, 0.6, 0.6))
PETS = Scene((DOG, CAT), "white", 300, 300, 0)
STARS = Scene(tuple(Thing("star", "red", (x, 0.4, x + 0.2, 0.6)) for x in (0.05, 0.35, 0.7)), "a green meadow", 300, 300, 0)
BLANK = Scene((), "pink", 300, 300, 0)
STRANGE = Scene((Thing(UNKNOWN, None, (0.3, 0.3, 0.7, 0.7)),), "white", 300, 300, 0)
PHOTO = Scene((), "gray", 300, 300, 0, foreign="photo")


def exchanges(seed: int, count: int = 700) -> list[Exchange]:
    """Exchanges of every kind, about random scenes and without."""
    rng = random.Random(seed)
    found: list[Exchange] = []
    for number in range(count):
        split = rng.choice(("train", "test"))
        scene = sample_scene(rng, split)
        exchange = ask(rng, scene, KINDS_OF_QUESTION[number % len(KINDS_OF_QUESTION)], ("green", "brown"))
        found += [exchange] if exchange else []
        found += conversation(rng, scene, 3, split, ("gray",))
        found.append(small_talk(rng, KINDS_OF_SMALL_TALK[number % len(KINDS_OF_SMALL_TALK)], split))
    return found


EXCHANGES = exchanges(1)


def asked(scene: Scene, kind: str, seed: int = 0, count: int = 60) -> Iterator[Exchange]:
    rng = random.Random(seed)
    found = (ask(rng, scene, kind) for _ in range(count))
    return (exchange for exchange in found if exchange is not None)


# --- sentences -----------------------------------------------------------------------------------------------------------


def test_every_kind_of_question_is_asked() -> None:
    kinds = {exchange.kind for exchange in EXCHANGES}
    assert kinds >= {*KINDS_OF_QUESTION, *KINDS_OF_SMALL_TALK, "foreign", "else", "sure"}


def test_no_placeholder_is_left_in_any_sentence() -> None:
    for exchange in EXCHANGES:
        for text in (exchange.question, exchange.answer):
            assert not re.search(r"[{}\[\]<>]|None of|\bNone\b(?!\.)|  ", text), exchange


def test_answers_are_whole_sentences_with_a_capital_and_a_mark() -> None:
    for exchange in EXCHANGES:
        assert re.match(r'["A-Z0-9]', exchange.answer), exchange
        assert exchange.answer[-1] in ".!?", exchange
        assert not re.search(r"[.!?] [a-z]|\s[,.!?]|\.\.|,,", exchange.answer), exchange


def test_articles_fit_the_next_word() -> None:
    for exchange in EXCHANGES:
        answer = re.sub(r'"[^"]*"', "", exchange.answer)
        assert not re.search(r"\b[Aa] (?:[aeio]|um)", answer), exchange
        assert not re.search(r"\b[Aa]n (?![aeiou]|hour)", answer), exchange
        if exchange.kind != "out_of_scope":
            assert not re.search(r"\b[Aa] (?:[aeio]|um)\w+", re.sub(r'"[^"]*"', "", exchange.question)), exchange


def test_numbers_and_verbs_agree_with_their_nouns() -> None:
    singular = "|".join(kind.name for kind in KINDS if kind.many != kind.name)
    plural = "|".join(kind.many for kind in KINDS if kind.many != kind.name)
    colours = "|".join(COLOURS)
    for exchange in EXCHANGES:
        answer = exchange.answer
        assert not re.search(rf"\b(?:[Tt]wo|[Tt]hree|[Ff]our|[Ff]ive|[Ss]ix) (?:(?:{colours}) )?(?:{singular})\b", answer), (
            exchange
        )
        assert not re.search(rf"\b(?:[Oo]ne|[Aa]n?) (?:(?:{colours}) )?(?:{plural})\b", answer), exchange
        assert not re.search(r"[Tt]here is (?:only )?(?:two|three|four|five|six)\b", answer), exchange
        assert not re.search(rf"[Tt]here is no (?:{plural})\b|[Tt]here are no (?:{singular})\b", answer), exchange
        assert not re.search(r"[Tt]here are (?:only )?(?:a|an|one)\b", answer), exchange
        assert not re.search(rf"\b[Tt]he (?:{plural}) (?:is|was)\b|\b[Tt]he (?:{singular}) (?:are|were)\b", answer), exchange


def test_lists_have_one_and_and_no_comma_before_it() -> None:
    assert named(groups(Scene((DOG, CAT, *STARS.things), "white", 9, 9, 0))) == "a dog, a cat and three red stars"
    assert not [exchange for exchange in EXCHANGES if re.search(r", and (?:an?|two|the) \w+\.", exchange.answer)]


def test_an_umbrella_and_an_owl_but_a_unicorn() -> None:
    assert [with_article(word) for word in ("umbrella", "owl", "red owl", "orange car", "unicorn")] == [
        "an umbrella",
        "an owl",
        "a red owl",
        "an orange car",
        "a unicorn",
    ]


@pytest.mark.parametrize(
    ("kind", "longest"),
    [("what", 30), ("count", 9), ("where", 12), ("colour", 20), ("describe", 45), ("story", 60), ("foreign", 45), ("cannot", 45)],
)
def test_answers_are_short(kind: str, longest: int) -> None:
    assert max(len(exchange.answer.split()) for exchange in EXCHANGES if exchange.kind == kind) <= longest


# --- variety -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "least"), [("what", 8), ("describe", 15), ("where", 4), ("story", 15), ("cannot", 4), ("background", 4)]
)
def test_one_scene_is_answered_in_many_ways(kind: str, least: int) -> None:
    answers = Counter(exchange.answer for exchange in asked(PETS, kind, count=400) if exchange.gold != "")
    assert len(answers) >= least


def test_of_twenty_descriptions_of_one_scene_most_differ() -> None:
    answers = [exchange.answer for exchange in asked(PETS, "describe", count=20)]
    assert len(set(answers)) >= 12


def test_every_kind_of_question_has_many_phrasings() -> None:
    for kind in KINDS_OF_QUESTION:
        assert len(QUESTIONS[kind].train) + len(QUESTIONS[kind].test) >= 11, kind
    assert all(pool.train for pool in QUESTIONS.values())


def test_tasks_beyond_the_model_hardly_repeat() -> None:
    rng = random.Random(1)
    prompts = {small_talk(rng, "out_of_scope").question for _ in range(1000)}
    assert len(prompts) > 850


# --- training and test ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["things.txt", "places.txt", "small_talk.txt", "follow_ups.txt", "out_of_scope.txt"])
def test_no_phrasing_is_both_for_training_and_for_the_test(name: str) -> None:
    for kind, pool in read_pools(name).items():
        assert pool.train, kind
        assert pool.test, kind
        assert not {meaning(text) for text in pool.train} & {meaning(text) for text in pool.test}, kind


def test_about_an_eighth_of_the_phrasings_is_held_out() -> None:
    pools = [*QUESTIONS.values(), *TEMPLATES.values(), *FILLERS.values()]
    held = sum(len(pool.test) for pool in pools)
    assert 0.1 < held / sum(len(pool.test) + len(pool.train) for pool in pools) < 0.17


def test_the_same_phrasings_are_held_out_wherever_they_stand() -> None:
    entries = [f"Say {number} of {{image}}." for number in range(40)]
    assert set(Pool(entries).test) == set(Pool([entries[0], *reversed(entries[1:])]).test)
    assert entries[0] in Pool(entries).train


def test_a_question_only_differs_by_what_it_says() -> None:
    assert meaning("What's in this {image}?") == meaning("what is in this image")
    assert meaning("What {color} is it?") == meaning("What colour is it?")
    assert meaning("What is it?") != meaning("Where is it?")


def test_questions_asked_in_training_are_never_those_of_the_test() -> None:
    said: dict[str, dict[str, set[str]]] = {"train": defaultdict(set), "test": defaultdict(set)}
    rng = random.Random(2)
    for number in range(3000):
        split = ("train", "test")[number % 2]
        scene = sample_scene(rng, split)
        for exchange in (ask(rng, scene), small_talk(rng, split=split)):
            assert exchange is not None
            said[split][exchange.kind].add(meaning(exchange.question))
    for kind, questions in said["train"].items():
        assert not questions & said["test"][kind], kind


def test_tasks_beyond_the_model_share_neither_template_nor_filler_with_the_test() -> None:
    for name, pool in FILLERS.items():
        assert pool.train, name
        assert pool.test, name
        assert not {meaning(text) for text in pool.train} & {meaning(text) for text in pool.test}, name
    rng = random.Random(3)
    topics = "|".join(re.escape(text) for text in FILLERS["topic"].test)
    for _ in range(1000):
        assert not re.search(rf"\babout (?:{topics})[.?]?$", small_talk(rng, "out_of_scope").question)
    test = {small_talk(rng, "out_of_scope", "test").question for _ in range(500)}
    held = [re.sub(r"\\\{\w+\\\}", ".+", re.escape(text.rstrip("?.!"))) for pool in TEMPLATES.values() for text in pool.test]
    assert all(any(re.search(shape, prompt, re.IGNORECASE) for shape in held) for prompt in test)
    assert len(test) > 150


def test_the_tutorials_prompts_are_for_training_word_by_word() -> None:
    assert "What is in this image? Tell me a story" in QUESTIONS["what_story"].common
    talk = read_pools("small_talk.txt")
    assert "What is the recipe of mayonnaise in two sentences?" in talk["recipe"].common
    assert talk["famous"].common[0].format("Italy") == "What is the capital of Italy famous for?"


def test_the_same_seed_says_the_same() -> None:
    assert exchanges(7, 60) == exchanges(7, 60)
    assert exchanges(7, 60) != exchanges(8, 60)


def test_carelessness_leaves_the_words_and_quoted_texts() -> None:
    rng = random.Random(4)
    typed = {careless(rng, 'Does it say "STOP"?') for _ in range(300)}
    assert all('say "STOP"' in text for text in typed)
    plain = {careless(rng, "Where is the dog?") for _ in range(300)}
    assert {"Where is the dog?", "where is the dog", "Where is the dog"} <= plain
    assert all("the dog" in text for text in plain)


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
        thing = Thing(kind.name, None if kind.icons else "blue", (0.1, 0.1, 0.2, 0.2))
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
    found = re.search(rf"\b(?:{kind}|{BY_NAME[kind].many if kind in BY_NAME else kind})\b", question.lower())
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
