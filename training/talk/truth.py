"""Judges whether a free-text reply is right for a scene, in any wording. The evaluation and the tests use these functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from training.figures import QUESTIONS as FIGURE_QUESTIONS
from training.kinds import BY_NAME, COLOURS, MOODS, REGIONS, TEXT, UNKNOWN, UNKNOWNS, category_of
from training.scenes import REGION_MARGIN, Scene, Thing
from training.talk.claims import Claims, Mention, claims, mentions, numbers, places, plain_words, sides
from training.talk.exchange import Exchange

__all__ = ["Mention", "false_mentions", "mentions", "right", "says_yes"]

_CELLS = {place: cell for cell, place in REGIONS.items()}
_NOTHING = re.compile(r"\b(?:no|not|nothing|none|empty|only|cannot|zero|that is all)\b")
_CANNOT = re.compile(r"\b(?:cannot|do not know|does not (?:tell|say|show)|not able|unable|no way to)\b")
_ME = "tiny demo model"
_NOT_RECOGNIZED = re.compile(r"\bnot (?:recognize|know what)|cannot recognize|unknown to me")
_ASKS_FOR_IMAGE = re.compile(
    r"\b(?:upload|add|attach|provide|send|share|give me|show me|need)\b.*\b(?:image|picture|one)\b|\bno (?:image|picture)\b"
    r"|\bnot (?:see|have) (?:an|any) (?:image|picture)\b|\bcannot see (?:an|any) (?:image|picture)\b"
)
_YES = re.compile(r"^(?:yes|yeah|there (?:is|are) (?!no\b)|i (?:can )?see (?!no\b)|it is (?!not\b))")
_NO = re.compile(r"^(?:no|nope|none|nothing|not|there (?:is|are) no|i (?:can )?see no|i do not|i cannot|it is not|it does not)\b")
# Patterns that a right reply to small talk contains.
_SMALL_TALK = {
    "greeting": r"\b(?:hello|hi|hey)\b",
    "how_are_you": r"\b(?:fine|well|good)\b",
    "thanks": r"\b(?:welcome|pleasure|glad|happy)\b",
    "bye": r"\b(?:bye|goodbye|see you)\b",
    "who": r"tiny demo model|llama",
    "llama": r"^(?:no\b|not\b).*(?:tiny demo model|architecture)",
    "made": r"\b(?:trained|learned|drawn|scratch)\b",
    "can": r"\b(?:image|name|count)\b",
    "joke": r"\?.+[!.]",
    "recipe": r"yolk.*\boil\b",
}


# --- what is false -------------------------------------------------------------------------------------------------------


def false_mentions(reply: str, scene: Scene, in_places: bool = True) -> list[str]:
    """Everything that the reply says and that is false for the scene: kinds, colours, counts, places, texts, the background.

    Args:
        in_places: Whether to judge places too. A place like "on the left" belongs to the one thing in its sentence.
    """
    said = claims(reply)
    wrong = [_spoken(mention) for mention in (*said.mentions, *said.references) if not _is_true(mention, scene)]
    shown = {text.upper() for thing in scene.things for text in (thing.line, *thing.text.split("\n")) if thing.kind == TEXT}
    wrong += [f'"{text}"' for text in said.texts if text.upper() not in shown]
    wrong += [name for name in said.backgrounds if not _is_background(name, scene)]
    if in_places:
        wrong += [f"{kind} {place}" for kind, place in said.places if not any(_near(t, place) for t in _of(scene, kind))]
        wrong += [f"{one} {side} {other}" for one, side, other in said.sides if not _beside(scene, one, side, other)]
    return wrong


def _spoken(mention: Mention) -> str:
    return " ".join(str(part) for part in (mention.count, mention.colour, mention.kind) if part is not None)


def _of(scene: Scene, kind: str, colour: str | None = None) -> list[Thing]:
    return [t for t in scene.things if t.kind == kind and (colour is None or t.colour is None or t.colour == colour)]


def _is_true(mention: Mention, scene: Scene) -> bool:
    if mention.kind in UNKNOWNS:
        unknown = {thing.kind for thing in scene.things if not thing.known}
        # An unknown thing without a category may be of any.
        return bool(scene.foreign) or bool(unknown if mention.kind == UNKNOWN else unknown & {mention.kind, UNKNOWN})
    there = _of(scene, mention.kind, mention.colour)
    if mention.colour and scene.grey and mention.colour not in ("gray", "black", "white"):
        return mention.count == 0
    if mention.count is None:
        return bool(there)
    return len(there) == mention.count


def _is_background(name: str, scene: Scene) -> bool:
    return not scene.foreign and scene.background == name


def _near(thing: Thing, place: str) -> bool:
    """Whether the centre is in the region or within REGION_MARGIN of it."""
    pairs = zip(thing.centre, _CELLS[place], strict=True)
    return all(cell / 3 - REGION_MARGIN <= value <= (cell + 1) / 3 + REGION_MARGIN for value, cell in pairs)


def _beside(scene: Scene, one: str, side: str, other: str) -> bool:
    axis = 0 if side in ("left of", "right of") else 1
    sign = -1 if side in ("left of", "above") else 1
    return any(
        sign * (first.centre[axis] - second.centre[axis]) > 0
        for first in _of(scene, one)
        for second in _of(scene, other)
        if first is not second
    )


# --- what is right -------------------------------------------------------------------------------------------------------


def right(exchange: Exchange, scene: Scene | None, reply: str) -> bool:
    """Whether the reply is a right answer to the question of the exchange. scene: None for small talk."""
    if not reply.strip():
        return False
    if exchange.kind in FIGURE_QUESTIONS:
        return FIGURE_QUESTIONS[exchange.kind][1].right(exchange.gold, reply)
    if exchange.kind in _JUDGES_OF_TALK:
        return _JUDGES_OF_TALK[exchange.kind](exchange, reply)
    if exchange.kind in _SMALL_TALK:
        return re.search(_SMALL_TALK[exchange.kind], plain_words(reply), re.DOTALL) is not None
    assert scene is not None, f"a question of the kind {exchange.kind} needs a scene"
    return _JUDGES[exchange.kind](exchange, scene, reply)


def says_yes(reply: str) -> bool | None:
    """True for a reply that begins with a yes, False for a no, None for neither."""
    words = plain_words(reply).strip()
    if _NO.match(words):
        return False
    return True if _YES.match(words) else None


def _says_not(reply: str) -> bool:
    """Whether the reply says that something is not there."""
    return _NOTHING.search(plain_words(reply)) is not None


def _names(gold: Sequence[tuple[str, str | None, int]], said: Claims, scene: Scene) -> bool:
    """Whether the reply names each group of `gold` with its colour and count."""
    texts = {text.upper() for text in said.texts}
    for kind, colour, count in gold:
        if kind == TEXT:
            if not any(thing.kind == TEXT and thing.line.upper() in texts for thing in scene.things):
                return False
            continue
        if kind in UNKNOWNS:
            # An unknown thing without a category may be of any.
            fitting, category = (UNKNOWNS if kind == UNKNOWN else (kind, UNKNOWN)), category_of(kind)
            named = [m for m in said.mentions if m.kind in fitting]
            if not named and not (set(said.categories) & {category} if category else said.categories):
                return False
            continue
        counts = (count, None) if count == 1 else (count,)
        if not any(m.kind == kind and m.count in counts and (colour is None or m.colour == colour) for m in said.mentions):
            return False
    return True


def _all_named(exchange: Exchange, scene: Scene, reply: str) -> bool:
    gold = _gold_groups(exchange)
    if not gold:
        return _says_not(reply) and not false_mentions(reply, scene)
    return _names(gold, claims(reply), scene) and not false_mentions(reply, scene)


def _gold_groups(exchange: Exchange) -> tuple[tuple[str, str | None, int], ...]:
    return exchange.gold


def _describe(exchange: Exchange, scene: Scene, reply: str) -> bool:
    """Whether the reply says something true and nothing false."""
    gold = _gold_groups(exchange)
    if false_mentions(reply, scene):
        return False
    return any(_names([group], claims(reply), scene) for group in gold) if gold else _says_not(reply)


def _count(exchange: Exchange, scene: Scene, reply: str) -> bool:
    said = claims(reply)
    counted = [m.count for m in said.mentions if m.kind == exchange.about and m.count is not None]
    found = counted or numbers(reply) or [m.count for m in said.mentions if m.count is not None]
    if not found and _says_not(reply):
        found = [0]
    return bool(found) and found[0] == exchange.gold


def _where(exchange: Exchange, scene: Scene, reply: str) -> bool:
    if not exchange.gold:
        return _says_not(reply) and not places(reply)
    return places(reply) == {exchange.gold}


def _colour(exchange: Exchange, scene: Scene, reply: str) -> bool:
    said = set(claims(reply).colours)
    if exchange.gold is None:
        return _CANNOT.search(plain_words(reply)) is not None or (_says_not(reply) and not said)
    if not exchange.gold:
        return _says_not(reply) and not said
    return said == {exchange.gold}


def _background(exchange: Exchange, scene: Scene, reply: str) -> bool:
    said = claims(reply)
    found = set(said.backgrounds) | (set(said.colours) if exchange.gold in COLOURS else set())
    return found == {exchange.gold}


def _yes_or_no(exchange: Exchange, scene: Scene, reply: str) -> bool:
    return says_yes(reply) == exchange.gold


def _relation(exchange: Exchange, scene: Scene, reply: str) -> bool:
    if isinstance(exchange.gold, bool):
        return _yes_or_no(exchange, scene, reply)
    if isinstance(exchange.gold, str):
        return sides(reply) == {exchange.gold}
    return _exactly(exchange, scene, reply)


def _exactly(exchange: Exchange, scene: Scene, reply: str) -> bool:
    """Whether the reply names exactly the gold groups. References (Claims) do not count."""
    gold = _gold_groups(exchange)
    said = claims(reply)
    named = {mention.kind for mention in said.mentions if mention.count != 0}
    if not gold:
        return _says_not(reply) and not named
    kinds = {kind for kind, _, _ in gold}
    if TEXT in kinds and said.texts:
        named.add(TEXT)
    return named == kinds and _names(gold, said, scene)


def _read(exchange: Exchange, scene: Scene, reply: str) -> bool:
    gold = str(exchange.gold)
    texts = claims(reply).texts
    if not gold:
        return not texts and _says_not(reply)
    if texts:
        return all(text.upper() == gold.upper() for text in texts)
    return re.search(rf"\b{re.escape(gold)}[.!?]*\s*$", reply.strip(), re.IGNORECASE) is not None


def _category(exchange: Exchange, scene: Scene, reply: str) -> bool:
    return _yes_or_no(exchange, scene, reply) if isinstance(exchange.gold, bool) else _exactly(exchange, scene, reply)


def _else(exchange: Exchange, scene: Scene, reply: str) -> bool:
    gold = _gold_groups(exchange)
    if false_mentions(reply, scene):
        return False
    if gold:
        return _names(gold, claims(reply), scene)
    named = {mention.kind for mention in claims(reply).mentions if mention.count != 0}
    return _says_not(reply) and named <= {exchange.about}


def _sure(exchange: Exchange, scene: Scene, reply: str) -> bool:
    return says_yes(reply) is True and not false_mentions(reply, scene)


def _mood(exchange: Exchange, scene: Scene, reply: str) -> bool:
    """Whether the reply names the mood and no other."""
    return set(plain_words(reply).replace(".", " ").replace(",", " ").split()) & set(MOODS) == {exchange.gold}


def _story(exchange: Exchange, scene: Scene, reply: str) -> bool:
    """Whether the reply has at least two sentences, names a thing of the scene and says nothing false."""
    said = claims(reply)
    named = {mention.kind for mention in said.mentions} | ({TEXT} if said.texts else set())
    kinds = {kind for kind, _, _ in _gold_groups(exchange)}
    return _sentences(reply) >= 2 and (not kinds or bool(named & kinds)) and not false_mentions(reply, scene)


def _sentences(reply: str) -> int:
    return len(re.findall(r"[.!?](?:\s|$|\")", reply.strip()))


def _cannot(exchange: Exchange, scene: Scene, reply: str) -> bool:
    return _CANNOT.search(plain_words(reply)) is not None and not false_mentions(reply, scene)


def _foreign(exchange: Exchange, scene: Scene, reply: str) -> bool:
    """Whether the reply says that the picture is not recognized, and names no thing."""
    named = [m for m in claims(reply).mentions if m.count != 0 and m.kind in BY_NAME]
    return _NOT_RECOGNIZED.search(plain_words(reply)) is not None and not named


_JUDGES: dict[str, Callable[[Exchange, Scene, str], bool]] = {
    "what": _all_named,
    "single": _all_named,
    "describe": _describe,
    "count": _count,
    "where": _where,
    "colour": _colour,
    "background": _background,
    "yesno": _yes_or_no,
    "relation": _relation,
    "extreme": _exactly,
    "read": _read,
    "category": _category,
    "story": _story,
    "cannot": _cannot,
    "foreign": _foreign,
    "else": _else,
    "sure": _sure,
    "mood": _mood,
}


# --- without a picture ---------------------------------------------------------------------------------------------------


def _beyond(exchange: Exchange, reply: str) -> bool:
    """Whether the reply says what the model is and which model to load instead."""
    words = plain_words(reply)
    return _ME in words and ("model path" in words or "llama" in words)


def _no_image(exchange: Exchange, reply: str) -> bool:
    return _ASKS_FOR_IMAGE.search(plain_words(reply)) is not None


def _sum(exchange: Exchange, reply: str) -> bool:
    found = re.findall(r"\d+", reply)
    return bool(found) and found[-1] == exchange.gold


def _knows(exchange: Exchange, reply: str) -> bool:
    """Whether the gold word is in the reply."""
    return re.search(rf"\b{re.escape(plain_words(str(exchange.gold)).rstrip('.'))}\b", plain_words(reply)) is not None


def _told(exchange: Exchange, reply: str) -> bool:
    named = {mention.kind for mention in mentions(reply)}
    return _sentences(reply) >= 2 and (named == {exchange.gold} if exchange.gold else bool(named))


_JUDGES_OF_TALK: dict[str, Callable[[Exchange, str], bool]] = {
    "out_of_scope": _beyond,
    "no_image": _no_image,
    "sum": _sum,
    "capital": _knows,
    "famous": _knows,
    "fact": _knows,
    "told": _told,
}
