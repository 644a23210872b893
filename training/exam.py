"""The questions of the evaluation: the rows of its table, and how to draw cases for a row.

A row has up to three columns. "scenes": new scenes, with drawings, fonts and phrasings of the training. "drawings": new scenes,
with drawings and fonts that are held out from training. "phrasings": new scenes, with phrasings that are held out from training.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image, ImageEnhance

from training.answers import Prompt, png
from training.drawings import NEW_STYLE, DrawingBank
from training.figures import FIGURES, QUESTIONS
from training.kinds import BY_NAME, MAX_COUNT, TEXT
from training.render import render, seen_colours
from training.sampling import sample_scene
from training.scenes import ForeignKind, Scene, held_out_pair, in_grey
from training.talk.claims import claims
from training.talk.conversation import ask, conversation
from training.talk.exchange import Exchange
from training.talk.truth import right
from training.talk.without_picture import small_talk
from training.words import case_is_visible

Column = Literal["scenes", "drawings", "phrasings"]
Change = Callable[[Image.Image], bytes]


@dataclass(frozen=True)
class Case:
    """A question whose reply can be judged.

    Attributes:
        scene: What the picture shows; None without a picture.
        judge: Returns True for a right reply.
    """

    prompt: Prompt
    exchange: Exchange
    scene: Scene | None
    judge: Callable[[str], bool]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        draw: Draws a random case for a column.
        goal: The share of right replies that is aimed at, 0 for none.
        columns: The columns that the row has.
    """

    title: str
    draw: Callable[[random.Random, DrawingBank, Column], Case]
    goal: float = 0.0
    columns: tuple[Column, ...] = ("scenes", "drawings", "phrasings")


# --- cases with a picture ------------------------------------------------------------------------------------------------


def _draw_image(scene: Scene, bank: DrawingBank, column: Column, style: str = "", unknown: bool = False) -> Image.Image:
    """Draws the scene for a column. unknown: whether to draw the unknown things that are held out from training."""
    split = "test" if column == "drawings" or unknown else "train"
    if style or column == "drawings":  # drawings in one colour are not held out
        things = tuple(replace(thing, look="colours") if thing.look == "one colour" else thing for thing in scene.things)
        scene = replace(scene, things=things)
    return render(replace(scene, split=split), bank, style=style or split)


def about(
    kind: str | Sequence[str],
    want: str,
    keep: Callable[[Scene, Exchange], bool] = lambda scene, exchange: True,
    style: str = "",
    unknown: bool = False,
    judge: Callable[[Exchange, Scene, str], bool] = right,
) -> Callable[[random.Random, DrawingBank, Column], Case]:
    """Returns a function that draws cases of one kind of question.

    Args:
        kind: Kind of question (talk/conversation.py), or several.
        want: Kind of scene (scenes.sample_scene).
        keep: Returns False for cases that do not belong to the row.
        style: Drawing style (DrawingBank.of); empty for the column's split.
        unknown: Whether to draw the unknown things that are held out from training, in every column.
        judge: Judges (exchange, scene, reply).
    """
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)

    def draw(rng: random.Random, bank: DrawingBank, column: Column) -> Case:
        while True:
            scene = sample_scene(rng, "test", want)
            asked = replace(scene, split="test" if column == "phrasings" else "train")
            exchange = ask(rng, asked, rng.choice(kinds))
            if exchange is not None and not scene.grey and keep(scene, exchange):
                break
        prompt = Prompt([exchange.question], png(_draw_image(scene, bank, column, style, unknown)))
        return Case(prompt, exchange, scene, lambda reply: judge(exchange, asked, reply))

    return draw


def _follow_up(rng: random.Random, bank: DrawingBank, column: Column) -> Case:
    """Draws a question that needs the question before it to be understood."""
    while True:
        scene = sample_scene(rng, "test", rng.choice(("one", "several", "count")))
        asked = replace(scene, split="test" if column == "phrasings" else "train")
        exchanges = conversation(rng, asked, 2)
        last = exchanges[-1]
        leans = f" {last.question.lower().strip('?.!')} "
        if (
            not scene.grey
            and last.kind in ("colour", "where", "count", "else", "relation")
            and (
                any(word in leans for word in (" it ", " its ", " they ", " them ", " these ", " those ", " else "))
                or leans.startswith(" and ")
            )
        ):
            break
    prompt = Prompt([exchanges[0].question, exchanges[0].answer, last.question], png(_draw_image(scene, bank, column)))
    return Case(prompt, last, scene, lambda reply: right(last, asked, reply))


def _foreign(kind: ForeignKind) -> Callable[[random.Random, DrawingBank, Column], Case]:
    def draw(rng: random.Random, bank: DrawingBank, column: Column) -> Case:
        scene = replace(sample_scene(rng, "test", "foreign"), foreign=kind)
        image = render(replace(scene, split="test" if column == "drawings" else "train"), bank)
        return _foreign_case(rng, scene, image, column)

    return draw


def photographs(pictures: Sequence[Image.Image]) -> Callable[[random.Random, DrawingBank, Column], Case]:
    """Returns a function that draws cases about the given photographs, whole or cropped."""

    def draw(rng: random.Random, bank: DrawingBank, column: Column) -> Case:
        image = rng.choice(pictures)
        if rng.random() < 0.5:
            wide, high = int(image.width * rng.uniform(0.4, 0.9)), int(image.height * rng.uniform(0.4, 0.9))
            left, top = rng.randint(0, image.width - wide), rng.randint(0, image.height - high)
            image = image.crop((left, top, left + wide, top + high))
        scene = replace(sample_scene(rng, "test", "foreign"), foreign="photo")
        return _foreign_case(rng, scene, image, column)

    return draw


def _foreign_case(rng: random.Random, scene: Scene, image: Image.Image, column: Column) -> Case:
    asked = replace(scene, split="test" if column == "phrasings" else "train")
    exchange = ask(rng, asked, rng.choice(("what", "describe", "single", "count", "yesno")), seen_colours(image))
    assert exchange is not None
    return Case(Prompt([exchange.question], png(image)), exchange, scene, lambda reply: right(exchange, asked, reply))


# --- cases without a picture ---------------------------------------------------------------------------------------------


def talk(*kinds: str) -> Callable[[random.Random, DrawingBank, Column], Case]:
    """Returns a function that draws cases without a picture. kinds: of talk/without_picture.py."""

    def draw(rng: random.Random, bank: DrawingBank, column: Column) -> Case:
        exchange = small_talk(rng, rng.choice(kinds), "test" if column == "phrasings" else "train")
        return Case(Prompt([exchange.question]), exchange, None, lambda reply: right(exchange, None, reply))

    return draw


# --- the same picture in another file ------------------------------------------------------------------------------------


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return file.getvalue()


def _scaled(by: float) -> Change:
    def change(image: Image.Image) -> bytes:
        size = max(1, round(image.width * by)), max(1, round(image.height * by))
        return png(image.resize(size, Image.Resampling.BICUBIC))

    return change


def _turned_by_exif(image: Image.Image) -> bytes:
    """A PNG file with rotated pixels and the EXIF orientation tag (0x0112) that turns the picture upright again."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif, compress_level=1)
    return file.getvalue()


def _grey(image: Image.Image) -> bytes:
    return png(ImageEnhance.Color(image).enhance(0))


CHANGES: dict[str, Change] = {
    "JPEG at quality 40": _jpeg,
    "half the size": _scaled(0.5),
    "twice the size": _scaled(2.0),
    "turned by EXIF": _turned_by_exif,
    "in grey": _grey,
}


def changed_cases(rng: random.Random, bank: DrawingBank, many: int) -> list[dict[str, Case]]:
    """Draws `many` cases, each as a dict from "as it is" and the names in CHANGES to the case with that file."""
    result = []
    kinds = (("single", "one"), ("what", "several"), ("count", "count"), ("where", "one"), ("read", "text"))
    for index in range(many):
        kind, want = kinds[index % len(kinds)]
        while True:
            # A grey picture shows no colour, so questions and judgements here use none.
            scene = sample_scene(rng, "test", want)
            asked = replace(in_grey(scene), split="train")
            exchange = ask(rng, asked, kind)
            # Half of a picture with fewer than 168 pixels (two tiles) a side would be too small to recognise.
            if exchange is not None and not scene.grey and min(scene.width, scene.height) >= 168:
                break
        image = _draw_image(scene, bank, "scenes")
        judge = _colour_blind(exchange, scene, asked)
        result.append(
            {
                name: Case(Prompt([exchange.question], change(image)), exchange, scene, judge)
                for name, change in {"as it is": png, **CHANGES}.items()
            }
        )
    return result


def _colour_blind(exchange: Exchange, scene: Scene, grey: Scene) -> Callable[[str], bool]:
    """Returns a judge that accepts a reply that is right for the scene with or without colours."""

    def judge(reply: str) -> bool:
        return right(exchange, replace(grey, grey=False), reply) or right(exchange, grey, reply)

    return judge


# --- the table -----------------------------------------------------------------------------------------------------------


def _two_or_three(scene: Scene, exchange: Exchange) -> bool:
    return 2 <= len(scene.things) <= 3


def _held_out_pair(scene: Scene, exchange: Exchange) -> bool:
    return len(scene.things) == 2 and held_out_pair(scene.things[0].kind, scene.things[1].kind)


def _counted(scene: Scene, exchange: Exchange) -> bool:
    return isinstance(exchange.gold, int) and 1 <= exchange.gold <= MAX_COUNT


def _word(scene: Scene, exchange: Exchange) -> bool:
    return str(exchange.gold).isalpha() and any(thing.text == exchange.gold for thing in scene.things)


def _number(scene: Scene, exchange: Exchange) -> bool:
    return str(exchange.gold).isdigit() and any(thing.text == exchange.gold for thing in scene.things)


def _two_lines(scene: Scene, exchange: Exchange) -> bool:
    return any(thing.kind == TEXT and "\n" in thing.text for thing in scene.things)


def _cased(scene: Scene, exchange: Exchange) -> bool:
    return _word(scene, exchange) and case_is_visible(exchange.gold)


def _in_its_case(exchange: Exchange, scene: Scene, reply: str) -> bool:
    return claims(reply).texts[:1] == (exchange.gold,)


def _drawn(look: str) -> Callable[[Scene, Exchange], bool]:
    return lambda scene, exchange: scene.things[0].look == look and _category_of_one(scene) not in ("shape", "")


def _category_of_one(scene: Scene) -> str:
    kind = scene.things[0].kind
    return BY_NAME[kind].category if kind in BY_NAME else ""


def _flag(scene: Scene, exchange: Exchange) -> bool:
    return _category_of_one(scene) == "flag"


def _four_or_five(scene: Scene, exchange: Exchange) -> bool:
    return 4 <= len(scene.things) <= 5


def _found(scene: Scene, exchange: Exchange) -> bool:
    return bool(exchange.gold)


def _sided(scene: Scene, exchange: Exchange) -> bool:
    return exchange.gold not in ((), None, "")


def _unknown(scene: Scene, exchange: Exchange) -> bool:
    return len(scene.things) == 1 and not scene.things[0].known


def rows(photos: Sequence[Image.Image]) -> list[Row]:
    """All rows of the table, except the rows of changed files and of sampling. photos: held-out photographs."""
    both: tuple[Column, ...] = ("scenes", "phrasings")
    once: tuple[Column, ...] = ("scenes",)
    return [
        Row("name one thing", about("single", "one"), 0.95),
        Row("name one thing, style never seen", about("single", "one", style=NEW_STYLE), 0.75, once),
        Row("name one thing, drawn as an outline", about("single", "one", _drawn("outline")), columns=once),
        Row("name one thing, drawn in one colour", about("single", "one", _drawn("one colour")), columns=once),
        Row("name a flag", about("single", "one", _flag), columns=("scenes", "drawings")),
        Row("mood of a face", about("mood", "one")),
        Row("name 2 or 3 things, all right", about("what", "several", _two_or_three), 0.88),
        Row("name 4 or 5 things, all right", about("what", "several", _four_or_five), columns=once),
        Row("name 2 things never shown together", about("what", "several", _held_out_pair), columns=once),
        Row("count 1 to 6", about("count", "count", _counted), 0.92),
        Row("colour", about("colour", "several", _found), 0.96),
        Row("place, one of nine", about("where", "several", _found), 0.97),
        Row("left, right, above, below", about("relation", "several", _sided), 0.93),
        Row("what is at a side", about("extreme", "several", _sided)),
        Row("there or not", about("yesno", "several"), 0.95),
        Row("read a word", about("read", "text", _word), 0.85),
        Row("read a word in its case", about("read", "text", _cased, judge=_in_its_case), columns=once),
        Row("read a number", about("read", "text", _number), 0.90),
        Row("read a sign of two lines", about("read", "text", _two_lines)),
        *(
            Row(figure, about([kind for kind, (owner, _) in QUESTIONS.items() if owner == figure], "figure"), columns=both)
            for figure in FIGURES
        ),
        Row("background", about("background", "one"), 0.95),
        Row("describe, nothing false", about("describe", "several"), 0.90),
        Row("tell a story, nothing false", about("story", "several"), 0.90),
        Row("category", about("category", "several")),
        Row("cannot be told from a picture", about("cannot", "one")),
        Row("follow-up with a pronoun", _follow_up, 0.92),
        Row("empty picture", about("what", "blank"), columns=both),
        Row("a kind never taught", about(("what", "single"), "unknown", _unknown, unknown=True), 0.85, both),
        Row("noise", _foreign("noise"), 0.90, both),
        Row("texture", _foreign("texture"), 0.90, both),
        Row("screen", _foreign("screen"), 0.90),
        Row("photograph never seen", photographs(photos), 0.92, both),
        Row("out of scope", talk("out_of_scope"), 0.90, both),
        Row("picture asked about, none given", talk("no_image"), 0.90, both),
        Row("sums", talk("sum"), 0.90, both),
        Row("capitals and facts", talk("capital", "fact", "famous"), columns=both),
        Row("small talk", talk("greeting", "thanks", "who", "can", "llama", "joke", "told"), 0.85, both),
    ]
