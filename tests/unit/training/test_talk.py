"""The language of the training set: grammatical, varied, and kept apart for training and test."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict

import pytest

from tests.support.training_exchanges import CAT, DOG, EXCHANGES, PETS, STARS, asked, exchanges
from training.kinds import COLOURS, KINDS
from training.sampling import sample_scene
from training.scenes import Scene
from training.talk import KINDS_OF_QUESTION, ask, small_talk
from training.talk.exchange import Pool, careless, meaning, read_pools
from training.talk.out_of_scope import FILLERS, TEMPLATES
from training.talk.phrases import groups, named, with_article
from training.talk.questions import QUESTIONS
from training.talk.without_picture import KINDS_OF_SMALL_TALK

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
        assert not re.search(r"\b[Aa] (?:[aeioAEIO]|um)", answer), exchange
        assert not re.search(r"\b[Aa]n (?![aeiouAEIO]|hour)", answer), exchange
        if exchange.kind != "out_of_scope":
            assert not re.search(r"\b[Aa] (?:[aeioAEIO]|um)\w+", re.sub(r'"[^"]*"', "", exchange.question)), exchange


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
