"""The vocabulary of the embedded checkpoint: the things, colours, places and backgrounds that it can name.

Drawings and sentences share these words. The module knows nothing of pixels or sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"


def article(phrase: str) -> str:
    """ "a" or "an", by the sound that the phrase begins with."""
    return "an" if phrase[0].lower() in "aeio" or phrase.startswith(("um", "unknown", "hour")) else "a"


@dataclass(frozen=True)
class Kind:
    """A kind of thing that the model can name.

    Attributes:
        icons: Names of its drawings in the emoji sets; empty for a shape (shapes.py) and for a figure (figures/).
        plural: The plural, if it is not name + "s".
    """

    name: str
    category: str
    icons: tuple[str, ...] = ()
    plural: str = ""

    @property
    def many(self) -> str:
        return self.plural or self.name + "s"

    @property
    def article(self) -> str:
        return article(self.name)

    @property
    def is_shape(self) -> bool:
        """Whether it is drawn in one colour, which can be asked for."""
        return self.category == "shape"

    @property
    def mood(self) -> str:
        """The mood of a face ("happy"); empty for any other thing."""
        return self.name.removesuffix(" face") if self.category == "face" else ""


def _entries(name: str) -> list[tuple[str, str]]:
    """The lines "category: content" of a file in assets/, without comments."""
    lines = (ASSETS / name).read_text(encoding="utf-8").splitlines()
    return [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines if line and line[0] != "#"]


def _read_kinds() -> tuple[Kind, ...]:
    kinds = []
    for category, entries in _entries("kinds.txt"):
        for entry in entries.split("; "):
            name, _, icons = entry.partition("=")
            name, _, plural = name.removesuffix(")").partition("(")
            drawn = () if category == "shape" else tuple((icons or name).split(","))
            kinds.append(Kind(name, category, drawn, plural))
    figures = sorted(path.stem for path in (Path(__file__).parent / "figures").glob("[a-z]*.py"))
    return (*kinds, *(Kind(name.replace("_", " "), "figure") for name in figures))


KINDS = _read_kinds()
BY_NAME = {kind.name: kind for kind in KINDS}
OBJECTS = tuple(kind for kind in KINDS if kind.icons)
SHAPES = tuple(kind for kind in KINDS if kind.is_shape)
FIGURES = tuple(kind for kind in KINDS if kind.category == "figure")
# The categories that questions ask for. All other things are in categories that people would not ask for.
CATEGORIES = ("animal", "plant", "food", "vehicle", "building", "tool", "clothing", "face", "flag", "shape")
CATEGORY_NOUNS = {category: category for category in CATEGORIES} | {"clothing": "piece of clothing", "hand": "hand"}
# Categories whose things people disagree about: a carrot is perhaps a plant, and a pencil perhaps a tool.
DISPUTED = {
    "plant": {"food", "thing"},
    "food": {"plant", "animal"},
    "animal": {"face", "thing"},
    "tool": {"thing", "clothing", "music", "sport"},
    "clothing": {"thing", "sport"},
    "face": {"animal", "thing"},
    "building": {"thing"},
    "vehicle": {"sport", "thing"},
    "shape": {"thing", "flag", "figure", "weather", "sport"},
    "flag": set(),
}
MOODS = tuple(kind.mood for kind in KINDS if kind.mood)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (250, 215, 40),
    "green": (50, 165, 60),
    "blue": (40, 90, 215),
    "purple": (140, 60, 180),
    "pink": (245, 130, 180),
    "brown": (130, 80, 45),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
    "gray": (135, 135, 135),
}

# Backgrounds that are not a plain colour: the name, and the phrase for a thing in front of the background.
SCENERY: dict[str, str] = {
    "a green meadow": "on a green meadow",
    "a sandy beach": "on a sandy beach",
    "a night sky": "in a night sky",
    "snow": "on snow",
    "a wooden table": "on a wooden table",
    "a brick wall": "in front of a brick wall",
    "the sea": "on the sea",
    "a blurry background": "on a blurry background",
}

# Nine places, by column and row of a 3 × 3 grid over the picture.
REGIONS: dict[tuple[int, int], str] = {
    (0, 0): "at the top left",
    (1, 0): "at the top",
    (2, 0): "at the top right",
    (0, 1): "on the left",
    (1, 1): "in the center",
    (2, 1): "on the right",
    (0, 2): "at the bottom left",
    (1, 2): "at the bottom",
    (2, 2): "at the bottom right",
}

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
MAX_COUNT = 6

# --- things that the model is not taught ---------------------------------------------------------------------------------

UNKNOWN = "unknown thing"
# Icons of unknown things by kind: "unknown animal" and so on. What has no category is UNKNOWN.
UNKNOWN_ICONS: dict[str, tuple[str, ...]] = {}
for _category, _icons in _entries("unknown.txt"):
    UNKNOWN_ICONS[f"unknown {_category}"] = (*UNKNOWN_ICONS.get(f"unknown {_category}", ()), *_icons.split())
UNKNOWNS = (UNKNOWN, *UNKNOWN_ICONS)


def category_of(kind: str) -> str:
    """The category of a kind, or of an unknown thing; empty for UNKNOWN and for a text."""
    if kind in BY_NAME:
        return BY_NAME[kind].category
    return kind.removeprefix("unknown ") if kind in UNKNOWN_ICONS else ""


# --- classes of the patch labels (labels.py) -----------------------------------------------------------------------------

BACKGROUND, TEXT, FOREIGN = "background", "text", "foreign picture"
PATCH_KINDS = (BACKGROUND, TEXT, FOREIGN, *UNKNOWNS, *(kind.name for kind in KINDS))
PATCH_SURFACES = ("none", *COLOURS, *SCENERY)
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
MAX_WORD = 10
MAX_DIGITS = 5
MAX_LINES = 2
