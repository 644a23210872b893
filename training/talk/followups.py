"""Follow-up questions: they call the thing of the last exchange "it" or "them", or repeat the last question for another thing."""

from __future__ import annotations

import random
from collections.abc import Callable

from training.kinds import BY_NAME, CATEGORIES, DISPUTED, TEXT
from training.scenes import Scene
from training.talk import honesty
from training.talk.about_picture import colour_answer, count_answer, no_colour_answer
from training.talk.exchange import Exchange, capital, careless, read_pools
from training.talk.facts import CAPITALS
from training.talk.phrases import Group, groups, keys, named, number, there
from training.talk.places import once, side_of, where_answer
from training.talk.questions import CATEGORY_PHRASES, OPPOSITE, SIDES
from training.talk.stories import tell
from training.talk.without_picture import small_talk

_ASKED = read_pools("follow_ups.txt")


def follow_up(rng: random.Random, scene: Scene, last: Exchange) -> Exchange | None:
    """A question that refers to the last exchange; None if that exchange was not about one kind of thing."""
    if scene.foreign:
        question = careless(rng, _ASKED[rng.choice(_OF_IT)].pick(rng, scene.split))
        return honesty.foreign(rng, scene, last.gold, question=question) if last.kind == "foreign" else None
    found = groups(scene)
    topics = [group for group in found if group.kind == last.about]
    if len(topics) != 1:
        return None
    if last.kind in ("where", "colour", "count") and rng.random() < 0.35:
        exchange = _and_the(rng, scene, last)
        if exchange is not None:
            return exchange
    for maker in rng.sample(_FOLLOW_UPS, 5):
        exchange = maker(rng, scene, topics[0])
        if exchange is not None and exchange.kind != last.kind:
            return exchange
    return None


def keep_talking(rng: random.Random, last: Exchange, split: str) -> Exchange | None:
    """A follow-up without a picture: another joke or story, or the capital of another country. None in other cases."""
    if rng.random() < 0.5:
        return None
    if last.kind in ("joke", "told"):
        other = small_talk(rng, last.kind, split)
        return Exchange(last.kind, careless(rng, _ASKED[last.kind].pick(rng, split)), other.answer)
    if last.kind == "capital":
        country = rng.choice([country for country, city in CAPITALS.items() if city != last.gold])
        city = CAPITALS[country]
        answer = rng.choice((f"{city}.", f"The capital of {country} is {city}.", f"It is {city}."))
        return Exchange("capital", careless(rng, _ASKED["and_of"].pick(rng, split).format(country)), answer, city)
    return None


def _colour(rng: random.Random, scene: Scene, topic: Group) -> Exchange | None:
    if topic.count == 1 and topic.kind in BY_NAME and not BY_NAME[topic.kind].is_shape and rng.random() < 0.4:
        question = careless(rng, _ASKED["colour"].pick(rng, scene.split))
        return Exchange("colour", question, no_colour_answer(rng, topic.kind), None, topic.kind)
    if not topic.colour:
        return None
    question = (_ASKED["colour"] if topic.count == 1 else _ASKED["colour_many"]).pick(rng, scene.split)
    return Exchange("colour", careless(rng, question), colour_answer(rng, topic), topic.colour, topic.kind)


def _where(rng: random.Random, scene: Scene, topic: Group) -> Exchange | None:
    place = _place(scene, topic)
    if place is None:
        return None
    return Exchange(
        "where", careless(rng, _ASKED["where"].pick(rng, scene.split)), where_answer(rng, topic, place), place, topic.kind
    )


def _place(scene: Scene, topic: Group) -> str | None:
    return next((thing.region for thing in once(scene) if thing.kind == topic.kind), None)


def _count(rng: random.Random, scene: Scene, topic: Group) -> Exchange | None:
    if topic.kind not in BY_NAME:
        return None
    counted = number(topic.count, topic.kind, BY_NAME[topic.kind].many)
    question = careless(rng, _ASKED["count"].pick(rng, scene.split))
    return Exchange("count", question, count_answer(rng, topic.count, counted), topic.count, topic.kind)


def _else(rng: random.Random, scene: Scene, topic: Group) -> Exchange | None:
    others = [group for group in groups(scene) if group.kind != topic.kind]
    question = careless(rng, _ASKED["else"].pick(rng, scene.split))
    if not others:
        only = topic.phrase
        open_form = "what" in question.lower()
        forms = (
            (f"Nothing else, only {only}.", "Nothing else.", f"Only {only}.", f"Nothing else, I see only {only}.")
            if open_form
            else (f"No, only {only}.", "No, that is all.", "No, nothing else.", f"No, I see only {only}.")
        )
        answer = rng.choice(forms)
        return Exchange("else", question, answer, (), topic.kind)
    every = named(others)
    forms = ("There {be} also {all}.", "I also see {all}.", "{All}.", "I can also see {all}.")
    answer = rng.choice(forms).format(be=there(others), all=every, All=capital(every))
    about = others[0].kind if len(others) == 1 else ""
    return Exchange("else", question, answer, keys(others), about)


def _side(rng: random.Random, scene: Scene, topic: Group) -> Exchange | None:
    things = once(scene)
    one = next((thing for thing in things if thing.kind == topic.kind), None)
    others = [thing for thing in things if thing is not one]
    if one is None or not others:
        return None
    other = rng.choice(others)
    axis = rng.randrange(2)
    side = side_of(one, other, axis) or side_of(one, other, 1 - axis)
    if side is None:
        return None
    yes = rng.random() < 0.5
    asked = rng.choice(SIDES[side if yes else OPPOSITE[side]])
    the2 = f"the {other.kind}"
    question = careless(rng, _ASKED["side"].pick(rng, scene.split).format(side=asked, the2=the2))
    word = "Yes" if yes else "No"
    answer = rng.choice((f"{word}.", f"{word}, it is {side} {the2}.", f"{word}, {topic.the} is {side} {the2}."))
    return Exchange("relation", question, answer, yes, topic.kind)


def _says(rng: random.Random, scene: Scene, topic: Group) -> Exchange | None:
    if topic.kind != TEXT:
        return None
    question = careless(rng, _ASKED["says"].pick(rng, scene.split))
    answer = rng.choice(('It says "{}".', '"{}".', 'The text says "{}".')).format(topic.text)
    return Exchange("read", question, answer, topic.text, TEXT)


def _category(rng: random.Random, scene: Scene, topic: Group) -> Exchange | None:
    if topic.kind not in BY_NAME or topic.count > 1:
        return None
    own = BY_NAME[topic.kind].category
    yes = rng.random() < 0.5
    asked = own if yes else rng.choice([name for name in CATEGORIES if name != own])
    if asked not in CATEGORIES or (not yes and own in DISPUTED[asked]):
        return None
    question = careless(rng, _ASKED["category"].pick(rng, scene.split).format(category=CATEGORY_PHRASES[asked]))
    word = "Yes" if yes else "No"
    answer = rng.choice((f"{word}.", f"{word}, it is {topic.phrase}.", f"{word}, I see {topic.phrase}."))
    return Exchange("category", question, answer, yes, topic.kind)


def _and_the(rng: random.Random, scene: Scene, last: Exchange) -> Exchange | None:
    """Repeats the last question for another thing, as in "And the star?"."""
    others = [group for group in groups(scene) if group.kind != last.about and (group.kind in BY_NAME or group.kind == TEXT)]
    if not others:
        return None
    other = rng.choice(others)
    if scene.count(other.kind) != other.count:
        return None
    exchange = {"where": _where, "colour": _colour, "count": _count}[last.kind](rng, scene, other)
    if exchange is None:
        return None
    the = other.the if last.kind != "count" else "the " + BY_NAME[other.kind].many
    question = careless(rng, _ASKED["and"].pick(rng, scene.split).format(the=the))
    return Exchange(exchange.kind, question, exchange.answer, exchange.gold, other.kind)


def _sure(rng: random.Random, scene: Scene, topic: Group) -> Exchange | None:
    if topic.kind not in BY_NAME and topic.kind != TEXT:
        return None
    answer = rng.choice(("Yes, I see {}.", "Yes, I am sure. I see {}.", "Yes, there {be} {}.", "Yes, I can see {}."))
    answer = answer.format(topic.phrase, be=topic.verb)
    return Exchange("sure", careless(rng, _ASKED["sure"].pick(rng, scene.split)), answer, keys([topic]), topic.kind)


def _story(rng: random.Random, scene: Scene, topic: Group) -> Exchange | None:
    question = careless(rng, _ASKED["story"].pick(rng, scene.split))
    return Exchange("story", question, tell(rng, groups(scene), scene), keys(groups(scene)), topic.kind)


_OF_IT = ("colour", "where", "count", "else", "says", "sure", "story")
_FOLLOW_UPS: tuple[Callable[[random.Random, Scene, Group], Exchange | None], ...] = (
    _colour,
    _colour,
    _where,
    _where,
    _count,
    _else,
    _else,
    _side,
    _side,
    _says,
    _category,
    _sure,
    _story,
)
