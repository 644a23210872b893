"""Noun phrases for a scene: groups of equal things, articles, plurals, lists, backgrounds. Questions are not known here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from training.kinds import BY_NAME, CATEGORY_NOUNS, COLOURS, NUMBERS, SCENERY, TEXT, UNKNOWN, UNKNOWNS, article, category_of
from training.scenes import Scene, Thing

SOMETHING = "something I do not know"
_UNKNOWN_NOUNS = {kind: CATEGORY_NOUNS.get(category_of(kind), "thing") for kind in UNKNOWNS}
_WITHOUT_COLOUR = {text: " ".join(word for word in text.split() if word not in COLOURS) for text in (*SCENERY, *SCENERY.values())}


@dataclass(frozen=True)
class Group:
    """All things of a scene with the same kind, colour and text. One phrase names them."""

    kind: str
    colour: str | None
    text: str
    count: int

    @property
    def phrase(self) -> str:
        """The phrase at the first mention: a red star, three dogs, the text "STOP", something I do not know."""
        if self.kind == TEXT:
            return f'the text "{self.text}"'
        if self.kind in UNKNOWNS:
            return unknown_phrase(self.kind)
        if self.count == 1:
            return with_article(noun(self.kind, self.colour))
        return f"{NUMBERS[self.count]} {noun(self.kind, self.colour, many=True)}"

    @property
    def full(self) -> str:
        """The phrase at the first mention, with the colour of a text."""
        if self.kind == TEXT and self.colour:
            return f'the {self.colour} text "{self.text}"'
        return self.phrase

    @property
    def the(self) -> str:
        """The phrase at a later mention: the star, the dogs, the text."""
        if self.kind in UNKNOWNS:
            return f"the {_UNKNOWN_NOUNS[self.kind]} I do not know"
        return "the " + noun(self.kind, many=self.count > 1)

    @property
    def verb(self) -> str:
        return "is" if self.count == 1 else "are"

    @property
    def pronoun(self) -> str:
        return "it" if self.count == 1 else "they"

    @property
    def key(self) -> tuple[str, str | None, int]:
        return self.kind, self.colour, self.count


def groups(scene: Scene) -> list[Group]:
    """The groups of a scene in the order of their leftmost things."""
    counts: dict[tuple[str, str | None, str], int] = {}
    for thing in scene.things:
        key = (thing.kind, thing.colour, thing.line if thing.kind == TEXT else "")
        counts[key] = counts.get(key, 0) + 1
    return [Group(kind, colour, text, count) for (kind, colour, text), count in counts.items()]


def group_of(thing: Thing) -> Group:
    return Group(thing.kind, thing.colour, thing.line if thing.kind == TEXT else "", 1)


def keys(found: Iterable[Group]) -> tuple[tuple[str, str | None, int], ...]:
    """Kind, colour and count of each group, as the gold of an exchange."""
    return tuple(group.key for group in found)


def noun(kind: str, colour: str | None = None, many: bool = False) -> str:
    """The kind with its colour, without an article. many: whether in the plural."""
    name = kind if kind == TEXT else (BY_NAME[kind].many if many else kind)
    return f"{colour} {name}" if colour else name


def with_article(phrase: str) -> str:
    return f"{article(phrase)} {phrase}"


def unknown_phrase(kind: str) -> str:
    """The phrase for an unknown thing: something I do not know, an animal I do not know, food I do not know."""
    noun_of = _UNKNOWN_NOUNS[kind]
    if kind == UNKNOWN:
        return SOMETHING
    return f"{noun_of if noun_of == 'food' else with_article(noun_of)} I do not know"


def listed(phrases: Sequence[str]) -> str:
    """One phrase, "a and b", or "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def named(found: Sequence[Group]) -> str:
    return listed([group.phrase for group in found])


def be(found: Sequence[Group]) -> str:
    """ "is" or "are" after a list of the groups."""
    return "is" if len(found) == 1 and found[0].count == 1 else "are"


def there(found: Sequence[Group]) -> str:
    """ "is" or "are" between "there" and a list of the groups: the first group decides."""
    return found[0].verb


def number(count: int, one: str, many: str) -> str:
    return f"{NUMBERS[count]} {one if count == 1 else many}"


def background(scene: Scene) -> str:
    """The background as a noun phrase: a white background, a green meadow. A grey picture's scenery has no colour: a meadow."""
    if scene.plain:
        return with_article(f"{scene.background} background")
    return _WITHOUT_COLOUR[scene.background] if scene.grey else scene.background


def before_background(scene: Scene) -> str:
    """The phrase for a thing in front of the background: on a white background, in a night sky."""
    if scene.plain:
        return "on " + background(scene)
    phrase = SCENERY[scene.background]
    return _WITHOUT_COLOUR[phrase] if scene.grey else phrase


def empty_background(scene: Scene) -> str:
    """A noun phrase for what an empty picture shows."""
    return f"a plain {scene.background} background" if scene.plain else background(scene)


def seen(scene: Scene) -> str:
    """All things of the scene as a list; the background if the scene is empty."""
    found = groups(scene)
    return named(found) if found else empty_background(scene)
