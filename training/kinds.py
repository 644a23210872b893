"""The vocabulary of the embedded checkpoint: the things, colours, places and backgrounds that it can name.

Drawings and sentences share these words. The module knows nothing of pixels or sentences.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of thing that the model can name.

    Attributes:
        icons: Names of its drawings in the emoji sets; empty for a shape, which shapes.py draws.
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
        return "an" if self.name[0] in "aeio" or self.name.startswith("um") else "a"


# Lines of "category: name(plural)=icons; ...". The plural is given if it is not name + s. Some icons have two names.
_TABLE = """
animal: dog=dog-face; cat=cat-face; rabbit=rabbit-face; fish(fish)=tropical-fish; bird=bird; frog=frog; elephant=elephant
animal: bee=honeybee; penguin=penguin; pig=pig-face; lion=lion,lion-face; monkey=monkey-face; owl=owl; turtle=turtle; snake=snake
animal: octopus(octopuses)=octopus; crab=crab; butterfly(butterflies)=butterfly; cow=cow-face; snail=snail
plant: tree=deciduous-tree; cactus(cactuses)=cactus; sunflower=sunflower; mushroom=mushroom; rose=rose
food: apple=red-apple; banana=banana; strawberry(strawberries)=strawberry; watermelon=watermelon; pizza=pizza; cake=birthday-cake
food: carrot=carrot; lemon=lemon; hamburger=hamburger; donut=doughnut; cheese=cheese-wedge; pineapple=pineapple
food: ice cream=soft-ice-cream
vehicle: car=automobile; bus(buses)=bus; airplane=airplane; rocket=rocket; sailboat=sailboat; bicycle=bicycle; train=locomotive
vehicle: helicopter=helicopter
thing: house=house; sun=sun; moon=crescent-moon; umbrella=umbrella; balloon=balloon; guitar=guitar; book=open-book; key=key
thing: clock=alarm-clock; bell=bell; gift=wrapped-gift; light bulb=light-bulb; camera=camera; hat=top-hat; crown=crown
thing: snowman(snowmen)=snowman-without-snow; robot=robot,robot-face; ghost=ghost; soccer ball=soccer-ball
shape: circle; square; triangle; diamond; star; heart; hexagon; cross(crosses)
"""


def _read_table() -> tuple[Kind, ...]:
    kinds = []
    for line in _TABLE.strip().splitlines():
        category, _, entries = line.partition(": ")
        for entry in entries.split("; "):
            name, _, icons = entry.partition("=")
            name, _, plural = name.removesuffix(")").partition("(")
            kinds.append(Kind(name, category, tuple(icons.split(",")) if icons else (), plural))
    return tuple(kinds)


KINDS = _read_table()
BY_NAME = {kind.name: kind for kind in KINDS}
OBJECTS = tuple(kind for kind in KINDS if kind.icons)
SHAPES = tuple(kind for kind in KINDS if not kind.icons)
CATEGORIES = (
    "animal",
    "plant",
    "food",
    "vehicle",
    "shape",
)  # the categories that questions ask for; all other things have the category "thing"

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

# Classes of the patch labels (labels.py), besides the kinds.
BACKGROUND, TEXT, UNKNOWN, FOREIGN = "background", "text", "unknown thing", "foreign picture"
PATCH_KINDS = (BACKGROUND, TEXT, UNKNOWN, FOREIGN, *(kind.name for kind in KINDS))
PATCH_SURFACES = ("none", *COLOURS, *SCENERY)
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
MAX_WORD = 8
MAX_DIGITS = 4
