"""What a wrong reply got wrong: whether it says something false as if it knew, and which thing it took for which."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from training.figures import QUESTIONS as FIGURE_QUESTIONS
from training.kinds import TEXT, UNKNOWNS
from training.scenes import Scene
from training.talk.claims import claims, numbers, places, plain_words, sides
from training.talk.exchange import Exchange
from training.talk.truth import false_mentions, says_yes

_ADMITS = re.compile(
    r"\b(?:do not|cannot|can not|not able to|unable to) (?:know|name|tell|recognize|see|read|judge|say|answer|help|do)\b"
    r"|\b(?:does not (?:tell|say|show))\b|\bbeyond me\b|\bnot sure\b|\btiny demo model\b|\bupload\b"
)
# A reply of these kinds is false only if it names something false. To name two of three things is wrong, but not false.
_OPEN = {"what", "single", "describe", "story", "else", "sure", "cannot", "foreign", "extreme"}
_CHAT = {"greeting", "how_are_you", "thanks", "bye", "who", "llama", "made", "can", "joke", "recipe", "told"}


def confidently_false(exchange: Exchange, scene: Scene | None, reply: str) -> bool:
    """Whether a wrong reply states something false without admitting a limit.

    Args:
        scene: None for a question without a picture.
        reply: A reply that was judged wrong.
    """
    if not reply.strip() or exchange.kind in _CHAT:
        return False
    if exchange.kind in _OPEN and scene is not None:
        named = [mention for mention in claims(reply).mentions if mention.count != 0 and mention.kind not in UNKNOWNS]
        return bool(named if scene.foreign else false_mentions(reply, scene)) and not (_admits(reply) and not named)
    return not _admits(reply)


def _admits(reply: str) -> bool:
    return _ADMITS.search(plain_words(reply)) is not None


def mistakes(exchange: Exchange, scene: Scene | None, reply: str) -> list[str]:
    """The mistakes of a wrong reply, as "kind of question: what was there → what was said"."""
    kind, gold = exchange.kind, exchange.gold
    if scene is None:
        return [f"{kind}: {gold or 'right kind of answer'} → {_short(reply)}"] if kind in ("sum", "capital", "fact") else []
    if scene.foreign:
        return [f"name: a strange picture → {name}" for name in _named(reply)]
    if isinstance(gold, bool):
        said = says_yes(reply)
        about = exchange.about or (_named(exchange.question) or ["?"])[0]
        return [f"{kind} ({about}): {_yes(gold)} → {_yes(said) if said is not None else 'neither'}"]
    if kind == "count":
        return [f"count: {gold} → {(numbers(reply) or ['no number'])[0]}"]
    if kind in ("where", "background", "mood") or (kind == "relation" and isinstance(gold, str)):
        said_text = ", ".join(sorted(places(reply) or sides(reply))) if kind in ("where", "relation") else _short(reply)
        return [f"{kind}: {gold or 'not there'} → {said_text or 'nothing'}"]
    if kind == "colour":
        return [f"colour: {gold or 'none to tell'} → {', '.join(sorted(set(claims(reply).colours))) or 'none'}"]
    if kind == "read":
        return _letters(str(gold), reply)
    if kind in FIGURE_QUESTIONS:
        return [f"{kind}: {gold} → {_short(reply)}"]
    return _names(scene, reply)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _short(reply: str) -> str:
    return reply if len(reply) < 40 else reply[:37] + "…"


def _named(text: str) -> list[str]:
    return [mention.kind for mention in claims(text.rstrip("?")).mentions if mention.count != 0]


def _names(scene: Scene, reply: str) -> list[str]:
    """Each kind that is not named, with a kind that is named but not there; "nothing" where there is none."""
    there = {thing.kind for thing in scene.things if thing.kind != TEXT}
    named = set(_named(reply)) - {TEXT}
    missed, invented = sorted(there - named), sorted(named - there)
    if not missed and not invented:
        return ["name: right kinds → wrong count, colour, place or text"]
    pairs = [(missed[i] if i < len(missed) else "nothing", invented[i] if i < len(invented) else "nothing")
             for i in range(max(len(missed), len(invented)))]  # fmt: skip
    return [f"name: {one} → {other}" for one, other in pairs]


def _letters(gold: str, reply: str) -> list[str]:
    said = (claims(reply).texts or ("",))[0]
    if not gold:
        return ["read: no text → a text"] if said else []
    if not said:
        return ["read: a text → nothing"]
    if len(said) != len(gold):
        return [f"read: {len(gold)} letters → {len(said)}"]
    return [f"read: {one} → {other}" for one, other in zip(gold, said, strict=True) if one.upper() != other.upper()]


def commonest(found: Iterable[str], many: int = 20) -> list[tuple[str, int]]:
    """The most frequent mistakes, the most frequent first, then by name."""
    return sorted(Counter(found).items(), key=lambda item: (-item[1], item[0]))[:many]
