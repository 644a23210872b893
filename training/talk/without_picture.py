"""Talk without a picture: greetings, who the model is, jokes, stories, sums, capitals, simple facts, and what is beyond it."""

from __future__ import annotations

import random
from collections.abc import Callable

from training.kinds import KINDS
from training.talk import facts
from training.talk.exchange import Exchange, Pool, capital, careless
from training.talk.honesty import ME, no_image
from training.talk.out_of_scope import out_of_scope
from training.talk.stories import story_of

_FIXED: dict[str, tuple[Pool, tuple[str, ...]]] = {
    "greeting": (
        Pool(
            """Hello
Hi
Hi!
Hello!
Hey
Hey there
Good morning
Good evening!
Hello there
Hi, nice to meet you
Good day
Howdy
Hello, anybody there?
Greetings!
Yo
Good afternoon
Hallo
Hola
Bonjour""",
            keep=4,
        ),
        (
            "Hello! Upload an image and ask me about it.",
            f"Hi! {ME}. Show me an image!",
            "Hello! Shall we look at an image?",
            "Hi! I am ready to look at an image with you.",
            f"Hello! {ME}, ask me about an image.",
        ),
    ),
    "how_are_you": (
        Pool(
            """How are you?
Hi, how are you?
How are you doing?
How do you do?
Are you okay?
How is it going?
What's up?
How do you feel today?
Are you fine?"""
        ),
        (
            "I am fine, thank you! Shall we look at an image?",
            "Very well, thank you! Show me an image.",
            "Fine, thanks! What shall we look at?",
            "I am doing well, thank you. Upload an image and ask me about it.",
        ),
    ),
    "thanks": (
        Pool(
            """Thanks
Thank you
Thank you!
Thanks a lot
Great, thank you.
Thank you very much
That was helpful
Well done
Good job!
Perfect, thanks
Very good
Nice
Cool
Great answer
Awesome, thanks!
Correct!
That is right""",
            keep=3,
        ),
        ("You are welcome!", "My pleasure!", "Glad to help!", "You are very welcome.", "Happy to help!"),
    ),
    "bye": (
        Pool(
            """Bye
Goodbye
Good night
See you later
See you soon
Bye bye!
I have to go now
That is all for today
Until tomorrow
Ciao"""
        ),
        ("Goodbye!", "Bye! Come back with more images.", "See you soon!", "Goodbye, it was nice to talk to you."),
    ),
    "who": (
        Pool(
            """Who are you?
What are you?
What is your name?
What model are you?
Which model is this?
Introduce yourself.
Tell me about yourself.
Are you a robot?
Are you human?
Are you a person?
Are you ChatGPT?
Are you an AI?
What kind of model are you?
How big are you?
How many parameters do you have?
What do I call you?
Do you have a name?
Who am I talking to?""",
            keep=4,
        ),
        (
            f"{ME} with the architecture of Llama 3.2 Vision.",
            f"{ME}, built like Llama 3.2 Vision but very small.",
            f"{ME} with about five million parameters, built like Llama 3.2 Vision.",
            f"{ME} that looks at simple images.",
        ),
    ),
    "llama": (
        Pool(
            """Are you Llama?
Are you Llama 3.2?
Are you the real Llama?
Are you made by Meta?
Did Meta train you?
Is this Llama 3.2 Vision?
Are you Llama 3.2 11B Vision?
Is this the real model?
Are you from Meta?
Am I talking to Llama?
Are you as good as Llama?"""
        ),
        (
            f"No. {ME} with the same architecture. Load the real Llama 3.2 Vision with --model-path.",
            f"No, {ME.lower().replace('i am', 'I am')}. I only have the architecture of Llama 3.2 Vision.",
            f"Not really. {ME} built like Llama 3.2 Vision, but not by Meta.",
        ),
    ),
    "made": (
        Pool(
            """How were you made?
How were you trained?
What were you trained on?
Who made you?
Who trained you?
What data did you learn from?
Where do you come from?
What is your training data?
How did you learn to see?
When were you made?
How do you work?
Were you trained on photos?"""
        ),
        (
            f"{ME}, trained from scratch on drawn scenes with emoji, shapes and words.",
            "I was trained from scratch on drawn pictures of emoji, shapes and short words.",
            "I learned from drawn scenes only: emoji, shapes and short words.",
            f"{ME}. I learned everything from drawn scenes.",
        ),
    ),
    "can": (
        Pool(
            """What can you do?
What can I ask you?
Help
Help me
How can you help me?
What are you good at?
What can you see?
What do you know?
What do I do now?
How does this work?
How do I use this?
What should I ask?
Give me an example of what you can do.
What can't you do?
What are your limits?
Can you see pictures?
Can you read?
Can you understand photos?
What is this demo?""",
            keep=3,
        ),
        (
            "I can name, count and find simple things in an image, and read short words. Upload one!",
            f"{ME}. I name simple things, count them, tell colors and places, and read short words.",
            "I can tell what is in a simple image: things, colors, numbers, places and short words.",
            "Ask me what is in a simple image, how many, where, or what it says. I do not know photos.",
        ),
    ),
    "joke": (
        Pool(
            """Tell me a joke.
Tell me a joke
Do you know a joke?
Tell me something funny.
Say something funny.
Make me laugh.
Another joke please
Know any jokes?
A joke, please!
Can you be funny?"""
        ),
        facts.JOKES,
    ),
    "recipe": (
        Pool(
            """What is the recipe of mayonnaise in two sentences?
What is the recipe of mayonnaise?
What is the recipe for mayonnaise in two sentences?
Give me the recipe of mayonnaise in two sentences.
How do I make mayonnaise?
How do you make mayonnaise?
Tell me how to make mayonnaise.
Mayonnaise recipe please
Can you give me a recipe for mayonnaise?
How is mayonnaise made?
Explain in two sentences how to make mayonnaise.
What do I need for mayonnaise?
Describe the recipe of mayonnaise briefly.""",
            keep=3,
        ),
        facts.MAYONNAISE,
    ),
}
_CAPITAL = Pool(
    """What is the capital of {}?
Tell me the capital of {}.
What's the capital of {}?
Which city is the capital of {}?
Capital of {}?
The capital of {} is?
Do you know the capital of {}?
Name the capital of {}.
Can you tell me the capital of {}?
What is the capital city of {}?
{}: what is its capital?
What city is the capital of {}?""",
    keep=2,
)
_CAPITAL_ANSWERS = ("{1}.", "The capital of {0} is {1}.", "It is {1}.", "{1} is the capital of {0}.")
_FAMOUS = Pool(
    """What is the capital of {} famous for?
What is the capital of {} known for?
Why is the capital of {} famous?
Tell me what the capital of {} is famous for.
The capital of {}: what is it famous for?
For what is the capital of {} famous?
Do you know what the capital of {} is famous for?
What makes the capital of {} famous?"""
)
_PLUS = Pool(
    """What is {0} + {1}?
What is {0} plus {1}?
{0} + {1}
{0}+{1}=?
{0} + {1} = ?
How much is {0} plus {1}?
How much is {0} + {1}?
Add {0} and {1}.
Calculate {0} + {1}.
What's {0} and {1}?
What do you get if you add {0} and {1}?
The sum of {0} and {1}?
Can you add {0} and {1}?""",
    keep=2,
)
_MINUS = Pool(
    """What is {0} - {1}?
What is {0} minus {1}?
{0} - {1}
{0}-{1}=?
{0} - {1} = ?
How much is {0} minus {1}?
Subtract {1} from {0}.
Calculate {0} - {1}.
Take {1} from {0}.
What is {0} less {1}?
What remains if you take {1} from {0}?""",
    keep=2,
)
_TIMES = Pool(
    """What is {0} * {1}?
What is {0} times {1}?
{0} * {1}
{0}*{1}=?
{0} x {1} = ?
How much is {0} times {1}?
Multiply {0} by {1}.
Calculate {0} * {1}.
What do you get if you multiply {0} by {1}?
{0} times {1}?
The product of {0} and {1}?""",
    keep=2,
)
_SUM_ANSWERS = ("{0} {sign} {1} = {2}.", "{2}.", "It is {2}.", "{0} {sign} {1} is {2}.")
_STORY = Pool(
    """Tell me a story about {}.
Write a short story about {}.
Tell me a short story about {}.
Can you tell me a story about {}?
I want a story about {}.
Make up a story about {}.
Once upon a time there was {} .. go on!
Do you know a story about {}?
Please invent a story with {}.
A story about {}, please."""
)
_ANY_STORY = Pool(
    """Tell me a story.
Tell me a short story.
Tell a story
Do you know a story?
I want to hear a story.
A story, please.
Write a short story.
Make up a story."""
)
_COLOUR_OF = Pool(
    """What color is {}?
What color does {} have?
What is the usual color of {}?
What color is {} usually?
Which color is {}?
What colour is {}?
Tell me the color of {}."""
)
_SOUND = Pool(
    """What does {} say?\nWhat sound does {} make?\nHow does {} sound?\nWhich sound does {} make?\nWhat noise does {} make?"""
)
_OPPOSITE = Pool(
    """What is the opposite of {}?\nThe opposite of {}?\nTell me the opposite of {}.\nWhat's the opposite of {}?\nName the opposite of {}."""
)
_AFTER = Pool(
    """What day comes after {}?\nWhich day comes after {}?\nWhat day is after {}?\nWhich day follows {}?\nWhat comes after {}?"""
)
_BEFORE = Pool("""What day comes before {}?\nWhich day comes before {}?\nWhat day is before {}?\nWhich day is before {}?""")
_LEGS = Pool(
    """How many legs does {} have?\nHow many legs has {}?\nThe number of legs of {}?\nDo you know how many legs {} has?"""
)
_FIXED_FACTS = tuple(facts.FIXED.items())


def _fixed(kind: str) -> Callable[[random.Random, str], Exchange]:
    pool, answers = _FIXED[kind]

    def make(rng: random.Random, split: str) -> Exchange:
        return Exchange(kind, careless(rng, pool.pick(rng, split)), rng.choice(answers))

    return make


def _story(rng: random.Random, split: str) -> Exchange:
    kind = rng.choice(KINDS)
    if rng.random() < 0.3:
        return Exchange("told", careless(rng, _ANY_STORY.pick(rng, split)), story_of(rng, kind.name))
    question = _STORY.pick(rng, split).format(f"{kind.article} {kind.name}")
    return Exchange("told", careless(rng, question), story_of(rng, kind.name), kind.name)


def _sum(rng: random.Random, split: str) -> Exchange:
    draw = rng.random()
    if draw < 0.45:
        first, second = rng.randint(0, 20), rng.randint(0, 20)
        if first + second > 20 and rng.random() < 0.5:
            first, second = first // 2, second // 2
        pool, sign, result = _PLUS, "+", first + second
    elif draw < 0.75:
        first = rng.randint(0, 20)
        second = rng.randint(0, first)
        pool, sign, result = _MINUS, "-", first - second
    else:
        first, second = rng.randint(0, 10), rng.randint(0, 10)
        pool, sign, result = _TIMES, "*", first * second
    question = careless(rng, pool.pick(rng, split).format(first, second))
    return Exchange("sum", question, rng.choice(_SUM_ANSWERS).format(first, second, result, sign=sign), str(result))


def _capital(rng: random.Random, split: str) -> Exchange:
    country = rng.choice(tuple(facts.CAPITALS))
    city = facts.CAPITALS[country]
    question = careless(rng, capital(_CAPITAL.pick(rng, split).format(country)))
    return Exchange("capital", question, rng.choice(_CAPITAL_ANSWERS).format(country, city), city)


def _famous(rng: random.Random, split: str) -> Exchange:
    country = "Italy" if rng.random() < 0.3 else rng.choice(tuple(facts.FAMOUS))
    question = careless(rng, _FAMOUS.pick(rng, split).format(country))
    return Exchange("famous", question, facts.FAMOUS[country], facts.CAPITALS[country])


def _fact(rng: random.Random, split: str) -> Exchange:
    draw = rng.randrange(6)
    if draw == 0:
        what, gold = rng.choice(tuple(facts.COLOUR_OF.items()))
        pool, answers = _COLOUR_OF, (f"{capital(what)} is {gold}.", f"{capital(gold)}.", f"{capital(what)} is usually {gold}.")
    elif draw == 1:
        what, gold = rng.choice(tuple(facts.SOUNDS.items()))
        pool, answers = _SOUND, (f"{capital(what)} says {gold}.", f"{capital(gold)}!", f"It says {gold}.")
    elif draw == 2:
        what, gold = rng.choice(tuple(facts.OPPOSITES.items()))
        pool, answers = _OPPOSITE, (f"The opposite of {what} is {gold}.", f"{capital(gold)}.", f"It is {gold}.")
    elif draw == 3:
        after = rng.random() < 0.7
        day = rng.randrange(7)
        what, gold = facts.DAYS[day], facts.DAYS[(day + (1 if after else -1)) % 7]
        word = "after" if after else "before"
        pool, answers = _AFTER if after else _BEFORE, (f"{gold}.", f"It is {gold}.", f"{gold} comes {word} {what}.")
    elif draw == 4:
        what, legs = rng.choice(tuple(facts.LEGS.items()))
        gold = ("no", "", "two", "", "four", "", "six", "", "eight")[legs]
        pool, answers = _LEGS, (f"{capital(what)} has {gold} legs.", f"It has {gold} legs.")
    else:
        question, answer = rng.choice(_FIXED_FACTS)
        return Exchange("fact", careless(rng, question), answer, answer)
    return Exchange("fact", careless(rng, capital(pool.pick(rng, split).format(what))), rng.choice(answers), gold)


_MAKERS: dict[str, tuple[Callable[[random.Random, str], Exchange], float]] = {
    **{kind: (_fixed(kind), 1.0) for kind in _FIXED},
    "told": (_story, 2.0),
    "sum": (_sum, 4.0),
    "capital": (_capital, 3.0),
    "famous": (_famous, 1.0),
    "fact": (_fact, 2.0),
    "no_image": (no_image, 4.0),
    "out_of_scope": (out_of_scope, 9.0),
}
KINDS_OF_SMALL_TALK = tuple(_MAKERS)
_WITH_PICTURE = tuple(kind for kind in KINDS_OF_SMALL_TALK if kind not in ("no_image", "told"))
_WEIGHTS = {kinds: [_MAKERS[kind][1] for kind in kinds] for kinds in (KINDS_OF_SMALL_TALK, _WITH_PICTURE)}


def small_talk(rng: random.Random, kind: str = "", split: str = "train") -> Exchange:
    """A question that needs no picture, or one that lacks its picture. kind: one of KINDS_OF_SMALL_TALK, or any."""
    kind = kind or rng.choices(KINDS_OF_SMALL_TALK, _WEIGHTS[KINDS_OF_SMALL_TALK])[0]
    return _MAKERS[kind][0](rng, split)


def aside(rng: random.Random, split: str) -> Exchange:
    """Small talk that makes sense while a picture is being looked at."""
    return small_talk(rng, rng.choices(_WITH_PICTURE, _WEIGHTS[_WITH_PICTURE])[0], split)
