"""A scene: which things a picture shows, and where, as plain values. sampling.py draws random scenes, render.py their pixels."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Literal

from training.kinds import COLOURS, REGIONS, UNKNOWNS

Split = Literal["train", "test"]
ForeignKind = Literal["noise", "texture", "photo", "screen"]
Look = Literal["colours", "outline", "one colour"]
Box = tuple[float, float, float, float]

# Fractions of the picture: the distance of a centre to the border between two of the nine regions, and the offset of two centres
# along an axis. Below these margins people would disagree on an answer, so that nothing is asked.
REGION_MARGIN = 0.045
SIDE_MARGIN = 0.15


@dataclass(frozen=True)
class Thing:
    """One thing in a picture.

    Attributes:
        kind: A name in kinds.py, TEXT or one of UNKNOWNS.
        colour: Colour of a shape or text; None for drawings and in grey pictures.
        box: Left, top, right, bottom, as fractions of the picture.
        text: The characters of a TEXT, its lines parted by line feeds; what a figure shows, as its module in figures/ writes it.
        style: Number of the drawing or font; render.py takes it modulo the number of drawings or fonts.
        angle: Rotation in degrees.
        look: How a drawing is drawn: in its colours, as an outline, or in one colour.
    """

    kind: str
    colour: str | None
    box: Box
    text: str = ""
    style: int = 0
    mirrored: bool = False
    angle: float = 0.0
    look: Look = "colours"

    @property
    def known(self) -> bool:
        """Whether the model is taught to name it."""
        return self.kind not in UNKNOWNS

    @property
    def line(self) -> str:
        """The text as people read it aloud: its lines with a space between them."""
        return self.text.replace("\n", " ")

    @property
    def centre(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def region(self) -> str | None:
        """The region of the centre, a value of REGIONS; None within REGION_MARGIN of a border."""
        cell = self.cell
        return None if cell is None else REGIONS[cell]

    @property
    def cell(self) -> tuple[int, int] | None:
        """Column and row of the centre in the 3 × 3 grid; None within REGION_MARGIN of a border."""
        found = []
        for value in self.centre:
            if min(abs(value - 1 / 3), abs(value - 2 / 3)) < REGION_MARGIN:
                return None
            found.append(min(2, int(value * 3)))
        return found[0], found[1]


@dataclass(frozen=True)
class Scene:
    """Everything that decides the pixels of a picture.

    Attributes:
        things: Sorted from left to right.
        background: A name in COLOURS or SCENERY.
        width: In pixels.
        height: In pixels.
        seed: Seed of the randomness in the pixels.
        foreign: Set if the picture shows nothing that the model can name (foreign.py).
        grey: Whether the picture has no colours.
        split: Which drawings, fonts and phrasings the picture and its questions may use.
    """

    things: tuple[Thing, ...]
    background: str
    width: int
    height: int
    seed: int
    foreign: ForeignKind | None = None
    grey: bool = False
    split: Split = "train"

    @property
    def plain(self) -> bool:
        return self.background in COLOURS

    def count(self, kind: str) -> int:
        return sum(thing.kind == kind for thing in self.things)


def held_out_pair(first: str, second: str) -> bool:
    """True for an eighth of all pairs of kinds. Training never shows the two kinds of such a pair together."""
    return zlib.crc32("|".join(sorted((first, second))).encode()) % 8 == 0


def in_grey(scene: Scene) -> Scene:
    """The scene as a grey picture, whose things have no colour."""
    things = tuple(replace(thing, colour=None) for thing in scene.things)
    background = scene.background
    if scene.plain and background not in ("white", "black"):
        background = "gray"
    return replace(scene, things=things, background=background, grey=True)
