"""Questions without a picture: greetings, what the model is, jokes, stories, sums, capitals, simple facts, tasks out of scope."""

from __future__ import annotations

import random
from collections.abc import Callable

from training.kinds import KINDS
from training.talk import facts
from training.talk.exchange import Exchange, capital, careless, read_pools, sloppy
from training.talk.honesty import ME, no_image
from training.talk.out_of_scope import out_of_scope
from training.talk.stories import story_of

_TALK = read_pools("small_talk.txt")
_ANSWERS: dict[str, tuple[str, ...]] = {
    "greeting": (
        "Hello! Upload an image and ask me about it.",
        f"Hi! {ME}. Show me an image!",
        "Hello! Shall we look at an image?",
        "Hi! I am ready to look at an image with you.",
        f"Hello! {ME}, ask me about an image.",
    ),
    "how_are_you": (
        "I am fine, thank you! Shall we look at an image?",
        "Very well, thank you! Show me an image.",
        "Fine, thanks! What shall we look at?",
        "I am doing well, thank you. Upload an image and ask me about it.",
    ),
    "thanks": ("You are welcome!", "My pleasure!", "Glad to help!", "You are very welcome.", "Happy to help!"),
    "bye": ("Goodbye!", "Bye! Come back with more images.", "See you soon!", "Goodbye, it was nice to talk to you."),
    "who": (
        f"{ME} with the architecture of Llama 3.2 Vision.",
        f"{ME}, built like Llama 3.2 Vision but very small.",
        f"{ME} with about six million parameters, built like Llama 3.2 Vision.",
        f"{ME} that looks at simple images.",
    ),
    "llama": (
        f"No. {ME} with the same architecture. Load the real Llama 3.2 Vision with --model-path.",
        f"No. {ME}, I only have the architecture of Llama 3.2 Vision.",
        f"Not really. {ME} built like Llama 3.2 Vision, but not by Meta.",
    ),
    "made": (
        f"{ME}, trained from scratch on drawn scenes with emoji, shapes and words.",
        "I was trained from scratch on drawn pictures of emoji, shapes and short words.",
        "I learned from drawn scenes only: emoji, shapes and short words.",
        f"{ME}. I learned everything from drawn scenes.",
    ),
    "can": (
        "I can name, count and find simple things in an image, and read short words. Upload one!",
        f"{ME}. I name simple things, count them, tell colors and places, and read short words.",
        "I can tell what is in a simple image: things, colors, numbers, places and short words.",
        "Ask me what is in a simple image, how many, where, or what it says. I do not know photos.",
    ),
    "joke": facts.JOKES,
    "recipe": facts.MAYONNAISE,
}
_HELLO_AGAIN = (
    "Hello! Ask me about the image.",
    "Hi! What do you want to know about the image?",
    "Hello! I am looking at the image, just ask.",
    "Hi! Ask me what is in the image.",
)
_SHORT = ("greeting", "how_are_you", "thanks", "bye")  # kinds without polite words before or after the question
_CAPITAL_ANSWERS = ("{1}.", "The capital of {0} is {1}.", "It is {1}.", "{1} is the capital of {0}.")
_SUM_ANSWERS = ("{0} {sign} {1} = {2}.", "{2}.", "It is {2}.", "{0} {sign} {1} is {2}.")
_FIXED_FACTS = tuple(facts.FIXED.items())


def _fixed(kind: str) -> Callable[[random.Random, str], Exchange]:
    pool, answers = _TALK[kind], _ANSWERS[kind]
    typed = sloppy if kind in _SHORT else careless

    def make(rng: random.Random, split: str) -> Exchange:
        return Exchange(kind, typed(rng, pool.pick(rng, split)), rng.choice(answers))

    return make


def _story(rng: random.Random, split: str) -> Exchange:
    kind = rng.choice(KINDS)
    if rng.random() < 0.3:
        return Exchange("told", careless(rng, _TALK["any_story"].pick(rng, split)), story_of(rng, kind.name))
    question = _TALK["story"].pick(rng, split).format(f"{kind.article} {kind.name}")
    return Exchange("told", careless(rng, question), story_of(rng, kind.name), kind.name)


def _sum(rng: random.Random, split: str) -> Exchange:
    draw = rng.random()
    largest = 10 if rng.random() < 0.7 else 20
    if draw < 0.45:
        first, second = rng.randint(0, largest), rng.randint(0, largest)
        pool, sign, result = _TALK["plus"], "+", first + second
    elif draw < 0.75:
        first = rng.randint(0, largest)
        second = rng.randint(0, first)
        pool, sign, result = _TALK["minus"], "-", first - second
    else:
        first, second = rng.randint(0, 10), rng.randint(0, 10)
        pool, sign, result = _TALK["times"], "*", first * second
    question = careless(rng, pool.pick(rng, split).format(first, second))
    return Exchange("sum", question, rng.choice(_SUM_ANSWERS).format(first, second, result, sign=sign), str(result))


def _capital(rng: random.Random, split: str) -> Exchange:
    country = rng.choice(tuple(facts.CAPITALS))
    city = facts.CAPITALS[country]
    question = careless(rng, capital(_TALK["capital"].pick(rng, split).format(country)))
    return Exchange("capital", question, rng.choice(_CAPITAL_ANSWERS).format(country, city), city)


def _famous(rng: random.Random, split: str) -> Exchange:
    country = "Italy" if rng.random() < 0.3 else rng.choice(tuple(facts.FAMOUS))
    question = careless(rng, _TALK["famous"].pick(rng, split).format(country))
    return Exchange("famous", question, facts.FAMOUS[country], facts.CAPITALS[country])


def _fact(rng: random.Random, split: str) -> Exchange:
    draw = rng.randrange(5 if split == "test" else 6)  # the last kind has one phrasing of each question, which only training uses
    if draw == 0:
        what, gold = rng.choice(tuple(facts.COLOUR_OF.items()))
        pool, answers = (
            _TALK["colour_of"],
            (f"{capital(what)} is {gold}.", f"{capital(gold)}.", f"{capital(what)} is usually {gold}."),
        )
    elif draw == 1:
        what, gold = rng.choice(tuple(facts.SOUNDS.items()))
        pool, answers = _TALK["sound"], (f"{capital(what)} says {gold}.", f"{capital(gold)}!", f"It says {gold}.")
    elif draw == 2:
        what, gold = rng.choice(tuple(facts.OPPOSITES.items()))
        pool, answers = _TALK["opposite"], (f"The opposite of {what} is {gold}.", f"{capital(gold)}.", f"It is {gold}.")
    elif draw == 3:
        after = rng.random() < 0.7
        day = rng.randrange(7)
        what, gold = facts.DAYS[day], facts.DAYS[(day + (1 if after else -1)) % 7]
        word = "after" if after else "before"
        pool, answers = (
            _TALK["after"] if after else _TALK["before"],
            (f"{gold}.", f"It is {gold}.", f"{gold} comes {word} {what}."),
        )
    elif draw == 4:
        what, legs = rng.choice(tuple(facts.LEGS.items()))
        gold = ("no", "", "two", "", "four", "", "six", "", "eight")[legs]
        pool, answers = _TALK["legs"], (f"{capital(what)} has {gold} legs.", f"It has {gold} legs.")
    else:
        question, answer = rng.choice(_FIXED_FACTS)
        return Exchange("fact", careless(rng, question), answer, answer)
    return Exchange("fact", careless(rng, capital(pool.pick(rng, split).format(what))), rng.choice(answers), gold)


_MAKERS: dict[str, tuple[Callable[[random.Random, str], Exchange], float]] = {
    **{kind: (_fixed(kind), 1.0) for kind in _ANSWERS},
    "told": (_story, 2.0),
    "sum": (_sum, 7.0),
    "capital": (_capital, 4.0),
    "famous": (_famous, 1.0),
    "fact": (_fact, 2.0),
    "no_image": (no_image, 4.0),
    "out_of_scope": (out_of_scope, 9.0),
}
KINDS_OF_SMALL_TALK = tuple(_MAKERS)
_WITH_PICTURE = tuple(kind for kind in KINDS_OF_SMALL_TALK if kind not in ("no_image", "told", "how_are_you", "can"))
_WEIGHTS = {kinds: [_MAKERS[kind][1] for kind in kinds] for kinds in (KINDS_OF_SMALL_TALK, _WITH_PICTURE)}


def small_talk(rng: random.Random, kind: str = "", split: str = "train") -> Exchange:
    """Makes a question without a picture. kind: one of KINDS_OF_SMALL_TALK; empty for a random one."""
    kind = kind or rng.choices(KINDS_OF_SMALL_TALK, _WEIGHTS[KINDS_OF_SMALL_TALK])[0]
    return _MAKERS[kind][0](rng, split)


def aside(rng: random.Random, split: str) -> Exchange:
    """Makes small talk that fits into a conversation about a picture."""
    kind = rng.choices(_WITH_PICTURE, _WEIGHTS[_WITH_PICTURE])[0]
    if kind == "greeting":
        return Exchange(kind, sloppy(rng, _TALK[kind].pick(rng, split)), rng.choice(_HELLO_AGAIN))
    return small_talk(rng, kind, split)
