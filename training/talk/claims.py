"""Parses what a free-text reply claims about a picture: things with colours and counts, places, backgrounds, quoted texts.

The parser knows the words in kinds.py. It does not depend on the phrasings of the training answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from training.kinds import CATEGORY_NOUNS, COLOURS, KINDS, NUMBERS, REGIONS, SCENERY, TEXT, UNKNOWN


class Mention(NamedTuple):
    """A thing that a reply names. colour: None if the reply gives none. count: 0 for "no dog", None for "the dog" or "dogs"."""

    kind: str
    colour: str | None
    count: int | None


@dataclass(frozen=True)
class Claims:
    """Everything that a reply claims.

    Attributes:
        references: Mentions that only say where another thing is, like the cat in "left of the cat".
        places: Pairs of kind and region.
        sides: Triples of kind, side and kind, like ("dog", "left of", "cat").
        backgrounds: Names in COLOURS or SCENERY.
        texts: Quoted texts.
        colours: All colours that the reply names.
        categories: Categories that the reply names without a kind, as in "some animal".
    """

    mentions: tuple[Mention, ...]
    references: tuple[Mention, ...]
    places: tuple[tuple[str, str], ...]
    sides: tuple[tuple[str, str, str], ...]
    backgrounds: tuple[str, ...]
    texts: tuple[str, ...]
    colours: tuple[str, ...]
    categories: tuple[str, ...] = ()


_COUNTS = {word: count for count, word in enumerate(NUMBERS)} | {str(count): count for count in range(13)}
_COUNTS |= {"zero": 0, "none": 0, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "a": 1, "an": 1, "single": 1}
_FORMS: dict[tuple[str, ...], tuple[str, bool]] = {}
for _kind in KINDS:
    _FORMS[tuple(_kind.many.lower().split())] = (_kind.name, True)
    _FORMS[tuple(_kind.name.lower().split())] = (_kind.name, _kind.many == _kind.name)
_FORMS[("text",)] = (TEXT, False)
_LONGEST = max(len(form) for form in _FORMS)
_ADJECTIVES = {"big", "small", "little", "large", "tiny", "bright", "plain", "other", "more", "also"}
_SEEN_NOT = {"see", "find", "show", "contain", "spot", "have", "any", "a", "an", "recognize"}
_SIDES = {"left": "left of", "right": "right of"}
_OVER_UNDER = {"above": "above", "over": "above", "below": "below", "under": "below", "beneath": "below"}
_COLOUR = "|".join(COLOURS)
_PLACES = {place.split(" the ")[1]: place for place in REGIONS.values()} | {"middle": "in the center", "centre": "in the center"}
_PLACE_WORDS = "|".join(sorted(_PLACES, key=len, reverse=True))
_OF_PICTURE = r"(?: of the (?:picture|image|photo|drawing|scene))"
_PLACE = re.compile(
    rf"\b(?:at|on|in|to) the (?:very )?({_PLACE_WORDS})(?: corner| side| part| edge| half)?(?:{_OF_PICTURE}|(?! of\b))\b"
)
_BARE_PLACE = re.compile(rf"\b({_PLACE_WORDS})\b(?:{_OF_PICTURE}|(?! of\b))")
_SCENERY_FORMS: dict[str, str] = {}
for _name in SCENERY:
    *_adjective, _head = [word for word in _name.split() if word not in ("a", "an", "the")]
    _prefix = " ".join(_adjective)
    _SCENERY_FORMS[_name] = rf"{_prefix} {_head}" if _head == "background" else rf"(?:{_prefix} )?{_head}" if _prefix else _head
_BACKGROUNDS = [(re.compile(rf"\b{form}\b"), name) for name, form in _SCENERY_FORMS.items()]
_PLAIN = re.compile(
    rf"\b(?:plain )?({_COLOUR}) background\b|\bbackground (?:is|of|in)(?: a)?(?: plain)? ({_COLOUR})\b"
    rf"|\b(?:a|is) plain ({_COLOUR})\b"
)
_NOUNS = {noun: category for category, noun in CATEGORY_NOUNS.items()}
_NOUN = "|".join(sorted(_NOUNS, key=len, reverse=True))
_UNKNOWN = re.compile(
    r"\b(?:(?:some|any|an?|one|the) )?(?:kind of |sort of |strange |unknown |\w+ )?"
    rf"(?:something|anything|things?|objects?|({_NOUN})s?)"
    r" (?:that |which )?i (?:do not|cannot) (?:know|name|recognize)\b"
    r"|\bdo not know what (?:this|that|it) is\b"
)
_CATEGORY = re.compile(rf"\b(?:some|an?|one|is|kind of|sort of) (?:kind of |sort of |strange |unknown )?({_NOUN})\b")
_WORD = re.compile(r'"\d+"|<\w+>|[a-z]+|\d+|[.,;:!?]')
_ENDS = {".", ";", "!", "?", ":"}


class _Found(NamedTuple):
    mention: Mention
    start: int
    end: int
    reference: bool


def plain_words(reply: str) -> str:
    """The reply in lower case, with American spelling, without contractions."""
    text = reply.lower().replace("’", "'").replace("n't", " not").replace("can not", "cannot").replace("ca not", "cannot")
    text = text.replace("grey", "gray").replace("colour", "color").replace("centre", "center").replace("-", " ")
    text = text.replace("recognise", "recognize").replace("i'm", "i am")
    return re.sub(r"\blower\b", "bottom", re.sub(r"\bupper\b", "top", text))


def mentions(reply: str) -> list[Mention]:
    """The things that the reply names, without references (Claims)."""
    return list(claims(reply).mentions)


def places(reply: str) -> set[str]:
    """The regions that the reply names, with or without a preposition, as values of REGIONS."""
    return {_PLACES[found] for found in _BARE_PLACE.findall(plain_words(_cut_quotes(reply)[0]))}


def sides(reply: str) -> set[str]:
    """The sides that the reply names: "left of", "right of", "above", "below"."""
    words = plain_words(_cut_quotes(reply)[0])
    found = {side for word, side in _SIDES.items() if re.search(rf"\b{word} of\b", words)}
    return found | {side for word, side in _OVER_UNDER.items() if re.search(rf"\b{word}\b", words)}


def numbers(reply: str) -> list[int]:
    """The numbers in the reply, in words or digits, in their order. Articles do not count as one."""
    words = _WORD.findall(plain_words(_cut_quotes(reply)[0]))
    return [_COUNTS[word] for word in words if word in _COUNTS and word not in ("a", "an", "single")]


def claims(reply: str) -> Claims:
    """Parses the reply."""
    text, texts = _cut_quotes(reply)
    text = plain_words(text)
    text = _UNKNOWN.sub(lambda hit: f" <unknown{_NOUNS.get(hit[1] or '', '')}> ", text)
    backgrounds: list[str] = []
    for pattern, name in _BACKGROUNDS:
        text, found = pattern.subn(" <background> ", text)
        backgrounds += [name] * bool(found)
    for match in _PLAIN.finditer(text):
        backgrounds.append(next(group for group in match.groups() if group))
    text = _PLAIN.sub(" <background> ", text)
    placed: list[tuple[str, str]] = []
    beside: list[tuple[str, str, str]] = []
    every: list[_Found] = []
    colours: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        regions = _PLACE.findall(sentence)
        words = _WORD.findall(_PLACE.sub(" <place> ", sentence))
        found_here = _find(words)
        every += found_here
        inside = {index for one in found_here for index in range(one.start, one.end)}
        colours += [word for index, word in enumerate(words) if word in COLOURS and index not in inside]
        colours += [one.mention.colour for one in found_here if one.mention.colour]
        spoken = [one for one in found_here if one.mention.count != 0 and not one.reference]
        if len(regions) == 1 and len(spoken) == 1:
            placed.append((spoken[0].mention.kind, _PLACES[regions[0]]))
        beside += _beside(words, found_here)
    return Claims(
        tuple(one.mention for one in every if not one.reference),
        tuple(one.mention for one in every if one.reference),
        tuple(placed),
        tuple(beside),
        tuple(backgrounds),
        texts,
        tuple(colours),
        tuple(_NOUNS[noun] for noun in _CATEGORY.findall(text)),
    )


def _cut_quotes(reply: str) -> tuple[str, tuple[str, ...]]:
    """The reply with each quoted text replaced by its number in quotes, and the quoted texts."""
    straight = reply.replace("“", '"').replace("”", '"')
    texts = tuple(re.findall(r'"([^"]*)"?', straight))
    counter = iter(range(len(texts)))
    return re.sub(r'"[^"]*"?', lambda _: f' "{next(counter)}" ', straight), texts


def _find(words: list[str]) -> list[_Found]:
    """The things in the words of one sentence."""
    found = []
    position = 0
    clause = 0  # start of the clause; a "not" applies only to its own clause
    while position < len(words):
        if words[position] in _ENDS or words[position] in (",", "but", "only"):
            clause = position + 1
        if words[position].startswith("<unknown"):
            category = words[position][len("<unknown") : -1]
            mention = Mention(f"unknown {category}" if category else UNKNOWN, None, 1)
            found.append(_Found(mention, position, position + 1, False))
            position += 1
            continue
        length = next((n for n in range(_LONGEST, 0, -1) if tuple(words[position : position + n]) in _FORMS), 0)
        if not length:
            position += 1
            continue
        kind, many = _FORMS[tuple(words[position : position + length])]
        start, colour, count, definite = _before(words, position, clause)
        if not definite and count is None and not many and kind != TEXT:
            count = 1
        colour = colour or _after(words, position + length)
        determined = definite or count is not None or colour is not None or words[position + 1 : position + 2][:1] == ['"0"']
        if not definite and _negated(words[clause:start]):
            count = 0
        if kind != TEXT or determined:
            reference = _side_before(words, start) is not None
            found.append(_Found(Mention(kind, colour, count), start, position + length, reference))
        position += length
    return found


def _before(words: list[str], position: int, clause: int) -> tuple[int, str | None, int | None, bool]:
    """The start of the noun phrase that ends at `position`, its colour, its count, and whether it is definite."""
    start, colour = position, None
    while start > clause and (words[start - 1] in COLOURS or words[start - 1] in _ADJECTIVES):
        start -= 1
        colour = colour or (words[start] if words[start] in COLOURS else None)
    if start > clause and words[start - 1] in _COUNTS:
        return start - 1, colour, _COUNTS[words[start - 1]], False
    if start > clause and words[start - 1] in ("the", "this", "that", "these", "those", "its", "their"):
        if start - 1 > clause and words[start - 2] == "all":
            return start - 2, colour, None, True
        return start - 1, colour, None, True
    return start, colour, None, False


def _after(words: list[str], end: int) -> str | None:
    """The colour after a noun phrase, as in "the star is red"."""
    rest = words[end : end + 4]
    if not rest or rest[0] not in ("is", "are"):
        return None
    rest = [word for word in rest[1:] if word not in ("all", "in", "plain")]
    return rest[0] if rest and rest[0] in COLOURS else None


def _negated(before: list[str]) -> bool:
    """Whether the words negate what follows, like "do not see", "cannot find", "is not a"."""
    for index, word in enumerate(before):
        if word in ("not", "cannot", "without", "neither"):
            after = before[index + 1 : index + 2]
            if not after or after[0] in _SEEN_NOT:
                return True
    return False


def _side_before(words: list[str], start: int) -> str | None:
    """The side named directly before the noun phrase, like "left of" or "above"."""
    if start >= 2 and words[start - 1] == "of" and words[start - 2] in _SIDES:
        return _SIDES[words[start - 2]]
    return _OVER_UNDER.get(words[start - 1]) if start >= 1 else None


def _beside(words: list[str], found: list[_Found]) -> list[tuple[str, str, str]]:
    """Triples of kind, side and kind. The first kind is the last thing named before the reference, else the first one after."""
    result = []
    for index, one in enumerate(found):
        side = _side_before(words, one.start) if one.reference else None
        others = [other for other in (*reversed(found[:index]), *found[index + 1 :]) if not other.reference]
        if side and others and others[0].mention.count != 0 and "not" not in words[: one.start]:
            result.append((others[0].mention.kind, side, one.mention.kind))
    return result
