"""The bank of drawings, fonts and photographs that pictures are made of. It is made once from the packages and cached.

Held out for evaluation: one style of each kind, all of openmoji, two font families, a fifth of the unknown drawings, and
all photographs except those of scikit-image.
"""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

from training import packages
from training.kinds import OBJECTS
from training.scenes import Split

SIDE = 112  # pixels of a side of a stored drawing; the model sees more only of a drawing that fills the picture
NEW_STYLE = "openmoji"
# The photographs among the pictures of scikit-image; the others are diagrams.
_PHOTOS = (
    "astronaut brick camera cell chelsea clock_motion coffee coins grass gravel hubble_deep_field ihc moon motorcycle_left "
    "motorcycle_right retina rocket"
).split()
# A drawing whose name has one of these parts is no "unknown thing": it looks like a kind that the model can name, or is a sign.
_TOO_NEAR = (
    "dog cat rabbit fish bird frog elephant bee penguin pig lion tiger monkey owl turtle snake octopus crab butterfly cow snail "
    "tree cactus flower mushroom rose tulip hibiscus blossom bouquet apple banana strawberry melon pizza cake carrot lemon "
    "hamburger sandwich doughnut donut cookie cheese pineapple ice cream shaved car automobile taxi bus trolley airplane rocket "
    "boat ship ferry bicycle bike scooter train locomotive tram rail metro helicopter house building home castle hotel sun moon "
    "umbrella balloon guitar book key lock clock watch timer bell gift present bulb camera hat cap crown snow robot ghost ball "
    "football volleyball circle square triangle diamond star heart cross button flag keycap arrow sign symbol letter hand finger "
    "person man woman boy girl men women people family couple kiss skin worker tone medium dark-skin light-skin zodiac mark "
    "clown moai hole money bill chart text input bear panda koala mouse hamster rat wolf fox duck chick chicken rooster swan "
    "eagle dove parrot goose duckling whale dolphin shark seal tropical aries squid shrimp lobster ox buffalo bug "
    "orange tangerine peach pear cherries tomato mango kiwi bread pancake pie bagel truck ambulance engine van tractor "
    "notebook ledger newspaper page calendar film movie video projector television helmet medal ring gem globe orb dizzy planet "
    "sparkle comet glowing face new-moon lantern pumpkin alien monster vehicle canoe speedboat flying 0 1 2 3 4 5 6 7 8 9 "
    "low raised waving registered copyright trade information japanese recycling fleur trident name-badge wheel radioactive "
    "biohazard peace om atom menorah yin dharma infinity multiply plus minus divide hash asterisk eject play pause stop record "
    "poodle digit minibus e-mail carousel-horse heavy fast rewind shuffle repeat up down left right end back soon top "
    "on-exclamation".split()
)


class DrawingBank:
    """Drawings, fonts and photographs.

    Attributes:
        unknown: RGBA drawings of things that the model cannot name, by split.
        photos: RGB photographs for training.
    """

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "drawings.npz") as data:
            pixels = data["pixels"]
        index: list[dict[str, str]] = json.loads((folder / "drawings.json").read_text())
        self._of: dict[tuple[str, str], list[Image.Image]] = {}
        self.unknown: dict[str, list[Image.Image]] = {"train": [], "test": []}
        for row, entry in zip(pixels, index, strict=True):
            image = Image.fromarray(row, "RGBA")
            if entry["kind"]:
                split = entry["style"] if entry["style"] == NEW_STYLE else _split(entry["kind"], entry["style"])
                self._of.setdefault((entry["kind"], split), []).append(image)
            else:
                self.unknown[_unknown_split(entry["icon"])].append(image)
        self._fonts = {split: sorted((folder / "fonts").glob(f"{split}-*.ttf")) for split in ("train", "test")}
        self.photos = [Image.open(path).convert("RGB") for path in sorted((folder / "photos").glob("*.jpg"))]
        self._sized: dict[tuple[Path, int], ImageFont.FreeTypeFont] = {}

    def of(self, kind: str, split: str) -> list[Image.Image]:
        """RGBA drawings of a kind, SIDE × SIDE pixels.

        Args:
            split: "train", "test" (the style that is held out for this kind) or NEW_STYLE. A kind without drawings in the split
                gives its training drawings.
        """
        return self._of.get((kind, split)) or self._of[kind, "train"]

    def font(self, style: int, size: int, split: Split) -> ImageFont.FreeTypeFont:
        """A font of the split. style: any number, taken modulo the number of fonts. size: in pixels, at least 4."""
        fonts = self._fonts[split]
        key = (fonts[style % len(fonts)], max(4, size))
        if key not in self._sized:
            if len(self._sized) > 2000:
                self._sized.clear()
            self._sized[key] = ImageFont.truetype(str(key[0]), key[1])
        return self._sized[key]


def _split(kind: str, style: str) -> Split:
    """The split of a kind's drawing in a style. A hash chooses one held-out style for each kind; training sees all styles."""
    styles = [package.name for package in packages.EMOJI if package.name != NEW_STYLE]
    return "test" if style == styles[zlib.crc32(kind.encode()) % len(styles)] else "train"


def _unknown_split(icon: str) -> Split:
    return "test" if zlib.crc32(icon.encode()) % 5 == 0 else "train"


def load_bank(cache: Path = packages.CACHE) -> DrawingBank:
    """Loads the bank. Makes it first if it is missing: this fetches packages and takes a minute."""
    folder = cache / "bank"
    if not (folder / "complete").exists():
        _make(folder, cache)
    return DrawingBank(folder)


def _make(folder: Path, cache: Path) -> None:
    for name in ("fonts", "photos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows: list[np.ndarray] = []
    index: list[dict[str, str]] = []
    for package in packages.EMOJI:
        icons = packages.read_icons(package, cache)
        wanted = [(kind.name, icon) for kind in OBJECTS for icon in kind.icons if icon in icons]
        if package.name in ("twemoji", "noto", "fluent-emoji-flat"):
            wanted += [("", icon) for icon in icons if _is_unknown(icon)]
        for kind, icon in wanted:
            pixels = rasterise(icons[icon])
            if pixels is not None:
                rows.append(pixels)
                index.append({"kind": kind, "icon": icon, "style": package.name})
    np.savez(folder / "drawings.npz", pixels=np.stack(rows))
    (folder / "drawings.json").write_text(json.dumps(index))
    for package in packages.FONTS:
        split = "train" if package.use == "training" else "test"
        for name, content in packages.read_fonts(package, cache).items():
            (folder / "fonts" / f"{split}-{name.replace(' ', '-')}.ttf").write_bytes(content)
    photos = packages.read_photos(packages.PHOTOS[0], cache)
    for name in _PHOTOS:
        photo = Image.open(photos[name]).convert("RGB")
        photo.thumbnail((512, 512))
        photo.save(folder / "photos" / f"{name}.jpg", quality=92)
    (folder / "complete").touch()


def _is_unknown(icon: str) -> bool:
    if any(icon in kind.icons for kind in OBJECTS):
        return False
    parts = icon.split("-")
    return not any(word in parts or (len(word) > 3 and word in icon) for word in _TOO_NEAR)


def rasterise(svg: str, side: int = SIDE) -> np.ndarray | None:
    """The visible part of an SVG, scaled to a square and centred: uint8 [side, side, 4], RGBA. None for an empty drawing."""
    import resvg_py  # needed only to make the bank

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=2 * side))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    box = image.getchannel("A").point([255 if alpha > 20 else 0 for alpha in range(256)]).getbbox()
    if box is None:
        return None
    image = image.crop(box)
    scale = side / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square)
