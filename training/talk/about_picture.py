"""Questions about a scene with true answers: what it shows, how many, which colour, whether something is there, what a text says.

Each public function of (rng, scene) makes one exchange. It returns None if people would disagree on the answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from training.kinds import (
    BY_NAME,
    CATEGORIES,
    CATEGORY_NOUNS,
    COLOURS,
    DISPUTED,
    MAX_COUNT,
    NUMBERS,
    TEXT,
    UNKNOWN,
    UNKNOWNS,
    category_of,
)
from training.scenes import Scene
from training.talk.absence import absent, missing, no_answer
from training.talk.exchange import Exchange, capital
from training.talk.honesty import ME
from training.talk.phrases import (
    Group,
    be,
    before_background,
    empty_background,
    groups,
    keys,
    listed,
    named,
    noun,
    number,
    there,
    with_article,
)
from training.talk.phrases import background as background_phrase
from training.talk.places import details, once
from training.talk.questions import CATEGORY_MANY, CATEGORY_PHRASES, pose

_WHAT = (
    "The image shows {all}.",
    "The picture shows {all}.",
    "I can see {all}.",
    "I see {all}.",
    "There {there} {all}.",
    "There {there} {all} in the picture.",
    "This is a picture of {all}.",
    "In the image there {there} {all}.",
    "It shows {all}.",
    "{All}.",
    "You can see {all}.",
    "This image shows {all}.",
)
_SINGLE = ("This is {all}.", "It is {all}.", "That is {all}.", "{All}.", "I see {all}.", "This is a picture of {all}.")
_DESCRIBE = (
    "The image shows {all} {before}.",
    "The picture shows {all} {before}.",
    "{All} {before}.",
    "{All} {be} {before}.",
    "There {there} {all} {before}.",
    "I can see {all} {before}.",
    "I see {all} {before}.",
    "This is a picture of {all} {before}.",
    "{Before} there {there} {all}.",
    "{Before} you can see {all}.",
    "In this picture {all} {be} {before}.",
    "It shows {all} {before}.",
    "You can see {all} {before}.",
    "The image shows {all}. The background is {behind}.",
    "I see {all}. The background is {behind}.",
    "{All}. The background is {behind}.",
)
_EMPTY = (
    "The picture is empty: {empty}.",
    "The picture is empty, I see only {empty}.",
    "The image is empty: {empty}.",
    "Nothing, only {empty}.",
    "I see nothing, only {empty}.",
    "There is nothing in the picture, only {empty}.",
    "There is only {empty}.",
    "It is empty: {empty}.",
)
_UNKNOWN = (
    f"I do not know what this is. {ME}.",
    f"This is {{it}}. {ME}.",
    f"It is {{it}}. {ME}.",
    f"I see {{it}}. {ME}.",
    f"{ME} and do not know what this is.",
)
_COUNT = ("There {be} {n}.", "{N}.", "I can see {n}.", "I count {n}.", "{Number}.", "The picture shows {n}.", "I see {n}.")
_COLOUR = ("{The} {be} {tint}.", "{They} {be} {tint}.", "{Tint}.", "The color is {tint}.", "I see {tint}.")
_NO_COLOUR = (
    "I cannot tell the color of {one}, only of shapes and text.",
    "I cannot tell. I know the colors of shapes and text only.",
    "I cannot tell the color of the {kind}. I know only those of shapes and text.",
    "I can tell the color of shapes and text only, not of {one}.",
)
_PLAIN = (
    "The background is {tint}.",
    "The background is plain {tint}.",
    "It is {tint}.",
    "{Tint}.",
    "A plain {tint} background.",
    "It is a plain {tint} background.",
)
_BEHIND = ("The background is {it}.", "{It}.", "It is {it}.", "I see {it} in the background.", "The background shows {it}.")
_READ = (
    'It says "{text}".',
    'The text says "{text}".',
    '"{text}".',
    'The text is "{text}".',
    'I read "{text}".',
    'The image says "{text}".',
)
_READ_LINE = ('It says "{text}".', '"{text}".', 'The line says "{text}".', 'I read "{text}".')


def what(rng: random.Random, scene: Scene) -> Exchange:
    found = groups(scene)
    return Exchange("what", pose(rng, "what", scene.split), name_all(rng, found, scene), keys(found), _topic(found))


def name_all(rng: random.Random, found: Sequence[Group], scene: Scene) -> str:
    """A sentence that names all things."""
    if not found:
        return rng.choice(_EMPTY).format(empty=empty_background(scene))
    if len(found) == 1 and found[0].kind in UNKNOWNS:
        return _of_unknown(rng, found[0])
    every = named(found)
    return rng.choice(_WHAT).format(all=every, All=capital(every), there=there(found))


def single(rng: random.Random, scene: Scene) -> Exchange | None:
    """Asks "What is this?" about a scene with exactly one thing."""
    found = groups(scene)
    if len(scene.things) != 1:
        return None
    every = found[0].phrase
    answer = rng.choice(_SINGLE).format(all=every, All=capital(every))
    if found[0].kind in UNKNOWNS:
        answer = _of_unknown(rng, found[0])
    return Exchange("single", pose(rng, "single", scene.split), answer, keys(found), _topic(found))


def _of_unknown(rng: random.Random, group: Group) -> str:
    """A sentence that admits not to know the thing. It names the category, where there is one."""
    forms = _UNKNOWN if group.kind == UNKNOWN or rng.random() < 0.2 else _UNKNOWN[1:-1]
    return rng.choice(forms).format(it=group.phrase)


def describe(rng: random.Random, scene: Scene) -> Exchange:
    found = groups(scene)
    question = pose(rng, "describe", scene.split)
    if not found:
        return Exchange("describe", question, rng.choice(_EMPTY).format(empty=empty_background(scene)), ())
    every = listed([group.full for group in found])
    before = before_background(scene)
    answer = rng.choice(_DESCRIBE).format(
        all=every,
        All=capital(every),
        be=be(found),
        there=there(found),
        before=before,
        Before=capital(before),
        behind=scene.background if scene.plain else background_phrase(scene),
    )
    more = details(rng, scene)
    return Exchange("describe", question, " ".join((answer, *more)), keys(found), _topic(found))


def _topic(found: Sequence[Group]) -> str:
    return found[0].kind if len(found) == 1 else ""


# --- how many ------------------------------------------------------------------------------------------------------------


def count(rng: random.Random, scene: Scene) -> Exchange | None:
    """Asks for the number of things of a kind, of a category, or of all things."""
    known = [group for group in groups(scene) if group.kind in BY_NAME]
    draw = rng.random()
    if draw < 0.12 and len(known) == len(groups(scene)):
        total = len(scene.things)
        return _count(rng, scene, "count_all", total, "thing", "things") if total <= MAX_COUNT else None
    if draw < 0.2 and len(known) == len(groups(scene)):
        category = rng.choice([BY_NAME[group.kind].category for group in known] or ["animal"])
        total = sum(group.count for group in known if BY_NAME[group.kind].category == category)
        if category in CATEGORIES and category != "food" and 0 < total <= MAX_COUNT:
            return _count(rng, scene, "count", total, CATEGORY_NOUNS[category], CATEGORY_MANY[category])
    # Large groups are chosen more often. Otherwise most answers would be one.
    asked = rng.choices(known, [group.count for group in known])[0].kind if known and draw < 0.9 else ""
    kind = asked or absent(rng, scene)
    return _count(rng, scene, "count", scene.count(kind), kind, BY_NAME[kind].many, kind)


def _count(rng: random.Random, scene: Scene, ask: str, total: int, one: str, many: str, about: str = "") -> Exchange:
    counted = number(total, one, many)
    question = pose(rng, ask, scene.split, many=many)
    return Exchange("count", question, count_answer(rng, total, counted), total, about if total else "")


def count_answer(rng: random.Random, total: int, counted: str) -> str:
    number_word = capital(NUMBERS[total]) if total else "None"
    be_word = "is" if total == 1 else "are"
    return rng.choice(_COUNT).format(be=be_word, n=counted, N=capital(counted), Number=number_word)


# --- colour and background -----------------------------------------------------------------------------------------------


def colour(rng: random.Random, scene: Scene) -> Exchange | None:
    """Asks for the colour of a shape or a text; sometimes of a thing that is not there."""
    coloured = [group for group in groups(scene) if group.colour]
    if rng.random() < 0.08:
        return missing(rng, scene, "colour")
    if not coloured:
        drawn = [thing.kind for thing in once(scene) if thing.kind in BY_NAME and not BY_NAME[thing.kind].is_shape]
        return _no_colour(rng, scene, rng.choice(drawn)) if drawn and rng.random() < 0.2 else None
    group = rng.choice(coloured)
    if sum(other.kind == group.kind for other in coloured) > 1:
        return None
    question = pose(rng, "colour", scene.split, the=group.the, be=group.verb)
    return Exchange("colour", question, colour_answer(rng, group), group.colour, group.kind)


def _no_colour(rng: random.Random, scene: Scene, kind: str) -> Exchange:
    """Asks for the colour of a drawing. The answer admits not to know, because drawings have several colours."""
    question = pose(rng, "colour", scene.split, the=f"the {kind}", be="is")
    return Exchange("colour", question, no_colour_answer(rng, kind), None, kind)


def no_colour_answer(rng: random.Random, kind: str) -> str:
    return rng.choice(_NO_COLOUR).format(one=with_article(kind), kind=kind)


def colour_answer(rng: random.Random, group: Group) -> str:
    assert group.colour is not None
    return rng.choice(_COLOUR).format(
        The=capital(group.the), They=capital(group.pronoun), be=group.verb, tint=group.colour, Tint=capital(group.colour)
    )


def background(rng: random.Random, scene: Scene) -> Exchange:
    question = pose(rng, "background", scene.split)
    if scene.plain:
        answer = rng.choice(_PLAIN).format(tint=scene.background, Tint=capital(scene.background))
    else:
        behind = background_phrase(scene)
        answer = rng.choice(_BEHIND).format(it=behind, It=capital(behind))
    return Exchange("background", question, answer, scene.background)


# --- yes or no -----------------------------------------------------------------------------------------------------------


def yesno(rng: random.Random, scene: Scene) -> Exchange | None:
    """Asks whether a thing is there, has a colour, or is there so many times. Yes and no are about equally frequent."""
    known = [group for group in groups(scene) if group.kind in BY_NAME]
    draw = rng.random()
    yes = rng.random() < 0.55  # more than half, because more questions with "yes" are given up below
    if known and draw < 0.12:
        return _is_colour(rng, scene, rng.choice(known), yes)
    if known and draw < 0.2:
        return _is_count(rng, scene, rng.choice(known), yes)
    if not known and (yes or rng.random() < 0.6):
        return None
    if not yes:
        return _isabsent(rng, scene, known)
    group = rng.choice(known)
    ask = "is_this" if len(scene.things) == 1 and rng.random() < 0.35 else "yesno"
    question = pose(
        rng, ask, scene.split, a=with_article(noun(group.kind, _maybe(rng, group.colour))), many=BY_NAME[group.kind].many
    )
    return Exchange("yesno", question, yes_answer(rng, group), True, group.kind)


def _maybe(rng: random.Random, colour: str | None) -> str | None:
    return colour if rng.random() < 0.5 else None


def yes_answer(rng: random.Random, group: Group) -> str:
    forms = ("Yes.", "Yes, there {be} {it}.", "Yes, I can see {it}.", "Yes, I see {it}.", "Yes, {it}.")
    return rng.choice(forms).format(be=group.verb, it=group.phrase)


def _isabsent(rng: random.Random, scene: Scene, known: Sequence[Group]) -> Exchange:
    found = groups(scene)
    tints = {group.colour for group in known if group.colour}
    shapes = [group for group in known if group.colour]
    if shapes and rng.random() < 0.35:  # asks for a shape of the scene in a wrong colour
        kind = rng.choice(shapes).kind
        tint: str | None = rng.choice([tint for tint in COLOURS if tint not in tints])
    else:
        kind = absent(rng, scene)
        tint = rng.choice(tuple(tints or COLOURS)) if BY_NAME[kind].is_shape and not scene.grey and rng.random() < 0.4 else None
    one = noun(kind, tint)
    ask = "is_this" if len(scene.things) == 1 and rng.random() < 0.35 else "yesno"
    many = noun(kind, tint, many=True)
    question = pose(rng, ask, scene.split, a=with_article(one), many=many)
    return Exchange("yesno", question, no_answer(rng, found, one), False)


def _is_colour(rng: random.Random, scene: Scene, group: Group, yes: bool) -> Exchange | None:
    if not group.colour or scene.count(group.kind) > 1:
        return None
    tint = group.colour if yes else rng.choice([tint for tint in COLOURS if tint != group.colour])
    question = pose(rng, "is_colour", scene.split, the=group.the, tint=tint)
    word = "Yes" if yes else "No"
    answer = rng.choice((f"{word}.", f"{word}, {group.the} is {group.colour}.", f"{word}, it is {group.colour}."))
    return Exchange("yesno", question, answer, yes, group.kind)


def _is_count(rng: random.Random, scene: Scene, group: Group, yes: bool) -> Exchange | None:
    total = scene.count(group.kind)
    asked = total if yes else rng.choice([n for n in range(2, MAX_COUNT + 1) if n != total])
    if asked < 2 or total > MAX_COUNT:
        return None
    many = BY_NAME[group.kind].many
    question = pose(rng, "is_count", scene.split, number=NUMBERS[asked], many=many)
    word = "Yes" if yes else "No"
    counted = number(total, group.kind, many)
    be_word = "is" if total == 1 else "are"
    answer = rng.choice((f"{word}.", f"{word}, there {be_word} {counted}.", f"{word}, I see {counted}."))
    return Exchange("yesno", question, answer, yes, group.kind)


def category(rng: random.Random, scene: Scene) -> Exchange | None:
    """Asks whether things of a category are there, or which."""
    found = groups(scene)
    present = {category_of(group.kind) for group in found} - {""}
    yes = rng.random() < 0.5
    if yes and not present & set(CATEGORIES):
        return None
    name = rng.choice(sorted(present & set(CATEGORIES))) if yes else rng.choice(CATEGORIES)
    hits = [group for group in found if category_of(group.kind) == name]
    if not hits and (any(group.kind == UNKNOWN for group in found) or DISPUTED[name] & present):
        return None  # people disagree whether a carrot is a plant
    about = hits[0].kind if len(hits) == 1 and hits[0].kind in BY_NAME else ""
    if hits and rng.random() < 0.4:
        every = named(hits)
        question = pose(rng, "which", scene.split, categories=CATEGORY_MANY[name])
        answer = rng.choice(("I see {}.", "There {be} {}.", "{All}.", "I can see {}."))
        return Exchange("category", question, answer.format(every, All=capital(every), be=there(hits)), keys(hits), about)
    question = pose(rng, "category", scene.split, category=CATEGORY_PHRASES[name])
    if hits:
        every = named(hits)
        forms = ("Yes, {}.", "Yes, there {be} {}.", "Yes, I see {}.", "Yes, I can see {}.")
        return Exchange("category", question, rng.choice(forms).format(every, be=there(hits)), True, about)
    answer = no_answer(rng, found, CATEGORY_NOUNS[name])
    return Exchange("category", question, answer.replace("a food", "food"), False)


# --- text ----------------------------------------------------------------------------------------------------------------


def read(rng: random.Random, scene: Scene) -> Exchange:
    """Asks what the text says, or whether there is a text."""
    texts = [thing.line for thing in scene.things if thing.kind == TEXT]
    draw = rng.random()
    if not texts:
        question = pose(rng, "read_any" if draw < 0.4 else "read", scene.split)
        if draw < 0.4:
            return Exchange("read", question, rng.choice(("No.", "No, there is no text.", "No, I see no text.")), "")
        found = groups(scene)
        forms = ["There is no text.", "There is no text in the picture.", "I see no text.", "No text."]
        if found and len(found) <= 3:
            forms.append(f"There is no text, only {named(found)}.")
        return Exchange("read", question, rng.choice(forms), "")
    text = texts[0]
    lines = next(thing.text for thing in scene.things if thing.kind == TEXT).split("\n")
    if len(lines) > 1 and draw < 0.3:
        which = rng.randrange(len(lines))
        question = pose(rng, "read_line", scene.split, which=("first", "second")[which])
        return Exchange("read", question, rng.choice(_READ_LINE).format(text=lines[which]), lines[which], TEXT)
    if draw < 0.1:
        question = pose(rng, "read_any", scene.split)
        forms = ('Yes, it says "{}".', 'Yes, the text says "{}".', 'Yes, I read "{}".', 'Yes, there is the text "{}".')
        return Exchange("read", question, rng.choice(forms).format(text), text, TEXT)
    ask = ("read_number" if text.isdigit() else "read_word") if draw < 0.25 and len(text) > 1 else "read"
    return Exchange("read", pose(rng, ask, scene.split), rng.choice(_READ).format(text=text), text, TEXT)
