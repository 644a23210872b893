"""The bank of drawings, fonts and photographs that pictures are made of. It is made once from the packages and cached.

Held out for evaluation: one style of each kind, all of openmoji, two font families, a fifth of the unknown drawings, and
all photographs except those of scikit-image.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

from training import packages
from training.kinds import ASSETS, KINDS, OBJECTS, UNKNOWN, UNKNOWN_ICONS, Kind
from training.scenes import Split

SIDE = 112  # pixels of a side of a stored drawing; the model sees more only of a drawing that fills the picture
NEW_STYLE = "openmoji"
ONE_COLOUR = "one colour"
# The photographs among the pictures of scikit-image; the others are diagrams.
_PHOTOS = (
    "astronaut brick camera cell chelsea clock_motion coffee coins grass gravel hubble_deep_field ihc moon motorcycle_left "
    "motorcycle_right retina rocket"
).split()
# A drawing whose name has one of these parts, or a word of a kind, is no "unknown thing": it looks like a kind that the model can
# name, or is a sign.
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
    "on-exclamation oclock thirty cane camel dragon zebra leaf shamrock clover lorry "
    "camping orca ram boar sunset sunrise mountain banjo lime".split()
)


class DrawingBank:
    """Drawings, fonts and photographs.

    Attributes:
        unknown: RGBA drawings of things that the model cannot name, by split and kind (kinds.UNKNOWNS).
        photos: RGB photographs for training.
    """

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "drawings.npz") as data:
            pixels = data["pixels"]
        index: list[dict[str, str]] = json.loads((folder / "drawings.json").read_text())
        self._of: dict[tuple[str, str], list[Image.Image]] = {}
        self.unknown: dict[str, dict[str, list[Image.Image]]] = {"train": {}, "test": {}}
        held_out = held_out_styles(index)
        for row, entry in zip(pixels, index, strict=True):
            image = Image.fromarray(row, "RGBA")
            if entry["icon"]:
                split = unknown_split(entry["icon"])
                self.unknown[split].setdefault(entry["kind"], []).append(image)
            else:
                style = entry["style"]
                split = style if style in (NEW_STYLE, ONE_COLOUR) else "test" if held_out[entry["kind"]] == style else "train"
                self._of.setdefault((entry["kind"], split), []).append(image)
        self._fonts = {split: sorted((folder / "fonts").glob(f"{split}-*.ttf")) for split in ("train", "test")}
        self.photos = [Image.open(path).convert("RGB") for path in sorted((folder / "photos").glob("*.jpg"))]
        self._sized: dict[tuple[Path, int], ImageFont.FreeTypeFont] = {}

    def of(self, kind: str, split: str) -> list[Image.Image]:
        """RGBA drawings of a kind, SIDE × SIDE pixels.

        Args:
            split: "train", "test" (the style that is held out for this kind), NEW_STYLE or ONE_COLOUR. A kind without drawings in
                the split gives its training drawings.
        """
        return self._of.get((kind, split)) or self._of[kind, "train"]

    def has_one_colour(self, kind: str) -> bool:
        """Whether a set of drawings in one colour has the kind."""
        return (kind, ONE_COLOUR) in self._of

    def font(self, style: int, size: int, split: Split) -> ImageFont.FreeTypeFont:
        """A font of the split. style: any number, taken modulo the number of fonts. size: in pixels, at least 4."""
        fonts = self._fonts[split]
        key = (fonts[style % len(fonts)], max(4, size))
        if key not in self._sized:
            if len(self._sized) > 2000:
                self._sized.clear()
            self._sized[key] = ImageFont.truetype(str(key[0]), key[1])
        return self._sized[key]


def held_out_styles(index: list[dict[str, str]]) -> dict[str, str]:
    """The style that is held out for each kind, by a hash over the styles that have the kind. Training sees every style."""
    styles: dict[str, list[str]] = {}
    for entry in index:
        if not entry["icon"] and entry["style"] not in (NEW_STYLE, ONE_COLOUR):
            own = styles.setdefault(entry["kind"], [])
            if entry["style"] not in own:
                own.append(entry["style"])
    return {kind: sorted(own)[zlib.crc32(kind.encode()) % len(own)] for kind, own in styles.items() if len(own) > 1} | {
        kind: "" for kind, own in styles.items() if len(own) == 1
    }


def unknown_split(icon: str) -> Split:
    """The split of an unknown thing. icon: its name without hyphens."""
    return "test" if zlib.crc32(icon.encode()) % 5 == 0 else "train"


def bank_folder(cache: Path = packages.CACHE) -> Path:
    """The folder of the bank in the cache. Its name has a digest of what the bank is made of."""
    made_of = [
        repr(_TOO_NEAR),
        repr(packages.EMOJI + packages.FONTS + packages.PHOTOS),
        *(path.read_text() for path in sorted(ASSETS.glob("*.txt"))),
    ]
    return cache / f"bank-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]}"


def load_bank(cache: Path = packages.CACHE) -> DrawingBank:
    """Loads the bank. Makes it first if it is missing: this fetches packages and takes a minute."""
    folder = bank_folder(cache)
    if not (folder / "complete").exists():
        _make(folder, cache)
    return DrawingBank(folder)


def _make(folder: Path, cache: Path) -> None:
    packages.fetch_all((*packages.EMOJI, *packages.FONTS, packages.PHOTOS[0]), cache)
    for name in ("fonts", "photos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows: list[np.ndarray] = []
    index: list[dict[str, str]] = []

    def add(svg: str, kind: str, style: str, icon: str = "") -> None:
        pixels = rasterise(svg)
        if pixels is not None:
            rows.append(pixels)
            index.append({"kind": kind, "style": style, "icon": icon})

    for package in packages.EMOJI:
        named = packages.read_icons(package, cache)
        icons = {plain(name): svg for name, svg in named.items()}
        style = ONE_COLOUR if package.one_colour else package.name
        for kind in OBJECTS:
            for svg in dict.fromkeys(icons[name] for name in icon_names(kind) if name in icons):
                add(svg, kind.name, style)
        if package.name in ("twemoji", "noto", "fluent-emoji-flat"):
            drawn = {svg: name for name, svg in named.items() if unknown_kind(name)}  # without the second names of a drawing
            for svg, name in drawn.items():
                add(svg, unknown_kind(name), package.name, plain(name))
    np.savez_compressed(folder / "drawings.npz", pixels=np.stack(rows))
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


def plain(icon: str) -> str:
    """The name of an icon without hyphens. The sets agree on names but not on hyphens."""
    return icon.replace("-", "").replace(" ", "")


def icon_names(kind: Kind) -> list[str]:
    """The names, without hyphens, that drawings of the kind have in the sets."""
    names = [plain(icon) for icon in kind.icons]
    lands = [name.removeprefix("flag") for name in names if kind.category == "flag" and name.startswith("flag")]
    return names + [other for land in lands for other in (f"flagfor{land}", f"{land}flag")]


@lru_cache
def _kinds_of_unknown() -> dict[str, str]:
    """The kind of each icon in unknown.txt, by its name without hyphens."""
    found = {}
    for kind, icons in UNKNOWN_ICONS.items():
        for icon in icons:
            name = plain(icon)
            found[name] = kind
            if name.startswith("flag"):
                found[f"flagfor{name[4:]}"] = kind
    return found


@lru_cache
def _near_words() -> frozenset[str]:
    words = {word for kind in KINDS for text in (kind.name.lower(), *kind.icons) for word in text.replace("-", " ").split()}
    return frozenset({*_TOO_NEAR, *words} - {"of"})


def unknown_kind(icon: str) -> str:
    """The kind of unknown thing that an icon shows; empty for an icon that is not used as one."""
    if plain(icon) in _kinds_of_unknown():
        return _kinds_of_unknown()[plain(icon)]
    parts = icon.split("-")
    near = any(word in parts or (len(word) > 3 and word in icon) for word in _near_words())
    return "" if near else UNKNOWN


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
