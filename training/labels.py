"""Labels that say for each 14 × 14 patch of a picture what it shows.

The first stage of training learns the vision layers from these labels alone, without text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import ImageFont

from mllama_demo.images.tiles import TileLayout
from training.drawings import DrawingBank
from training.figures import FIGURES
from training.kinds import (
    BACKGROUND,
    CHARACTERS,
    FOREIGN,
    MAX_COUNT,
    MAX_LINES,
    MAX_WORD,
    PATCH_KINDS,
    PATCH_SURFACES,
    REGIONS,
    TEXT,
)
from training.render import fit_text
from training.scenes import Scene, Thing

IGNORE = -100
# The classification heads, and the number of classes of each.
HEADS = {
    "kind": len(PATCH_KINDS),
    "surface": len(PATCH_SURFACES),  # colour of a shape or text; colour or scenery of the background
    "region": len(REGIONS),  # where in the picture the patch's thing is
    "count": MAX_COUNT,  # number of things of the same kind, minus one
    "character": len(CHARACTERS),
    "place": MAX_WORD,  # index of the character in its line
    "line": MAX_LINES,  # index of the line in its text
    "hour": 12,  # of a clock, 0 for twelve
    "quarter": 4,  # of an hour, of a clock
}
_KIND = {name: index for index, name in enumerate(PATCH_KINDS)}
_SURFACE = {name: index for index, name in enumerate(PATCH_SURFACES)}
_REGION = {cell: index for index, cell in enumerate(REGIONS)}


@dataclass(frozen=True)
class PatchGrid:
    """The centres of all patches, each array [rows, columns].

    Attributes:
        x: In pixels of the resized picture.
        y: In pixels of the resized picture.
        inside: True for a patch of the picture, False for a patch of padding.
    """

    x: np.ndarray
    y: np.ndarray
    inside: np.ndarray


def patch_grid(layout: TileLayout, tile_size: int, patch_size: int) -> PatchGrid:
    """The grid of all tiles of a layout. tile_size, patch_size: in pixels."""
    per_tile = tile_size // patch_size
    x, y = np.meshgrid(
        (np.arange(layout.columns * per_tile) + 0.5) * patch_size, (np.arange(layout.rows * per_tile) + 0.5) * patch_size
    )
    return PatchGrid(x, y, (x < layout.width) & (y < layout.height))


def patch_labels(
    scene: Scene, layout: TileLayout, tile_size: int, patch_size: int, max_tiles: int, bank: DrawingBank
) -> np.ndarray:
    """The labels of a scene's patches.

    Returns:
        int16 [heads, max_tiles, patches of a tile], heads in the order of HEADS. IGNORE where a head has no label.
    """
    grid = patch_grid(layout, tile_size, patch_size)
    maps = {name: np.full(grid.x.shape, IGNORE, np.int16) for name in HEADS}
    maps["kind"][grid.inside] = _KIND[BACKGROUND if scene.foreign is None else FOREIGN]
    if scene.foreign is None:
        if not (scene.grey and scene.plain):
            maps["surface"][grid.inside] = _SURFACE[scene.background]
        for thing in scene.things:
            _label_thing(maps, grid, thing, scene, layout, bank)
    stacked = np.stack(list(maps.values()))
    per_tile = tile_size // patch_size
    tiles = stacked.reshape(len(HEADS), layout.rows, per_tile, layout.columns, per_tile).transpose(0, 1, 3, 2, 4)
    result = np.full((len(HEADS), max_tiles, per_tile * per_tile), IGNORE, np.int16)
    result[:, : layout.tiles] = tiles.reshape(len(HEADS), layout.tiles, -1)
    return result


def _label_thing(
    maps: dict[str, np.ndarray], grid: PatchGrid, thing: Thing, scene: Scene, layout: TileLayout, bank: DrawingBank
) -> None:
    left, top, right, bottom = (f * s for f, s in zip(thing.box, (layout.width, layout.height) * 2, strict=True))
    on = np.zeros(grid.x.shape, bool)
    if thing.kind == TEXT:
        fitted = fit_text(thing, round(right - left), round(bottom - top), bank, scene.split)
        x, y = (left + right - fitted.width) / 2, (top + bottom - fitted.height) / 2
        for number, (text, box) in enumerate(fitted.lines):
            on |= _label_line(maps, grid, fitted.font, text, (x + box[0], y + box[1], x + box[2], y + box[3]), number)
    elif thing.kind in FIGURES:
        on = (grid.x > left) & (grid.x < right) & (grid.y > top) & (grid.y < bottom) & grid.inside
        for head, value in FIGURES[thing.kind].labels(thing.text).items():
            maps[head][on] = value
    else:
        reach_x, reach_y = (right - left) / 2 + 3, (bottom - top) / 2 + 3
        on = ((grid.x - (left + right) / 2) / reach_x) ** 2 + ((grid.y - (top + bottom) / 2) / reach_y) ** 2 <= 1
        on &= grid.inside
        maps["count"][on] = min(scene.count(thing.kind), MAX_COUNT) - 1
    maps["kind"][on] = _KIND[thing.kind]
    maps["surface"][on] = _SURFACE[thing.colour or "none"]
    if thing.cell is not None:
        maps["region"][on] = _REGION[thing.cell]
    if thing.kind in FIGURES and not scene.grey:
        for box, colour in FIGURES[thing.kind].surfaces(thing.text):
            x0, x1 = (left + f * (right - left) for f in (box[0], box[2]))
            y0, y1 = (top + f * (bottom - top) for f in (box[1], box[3]))
            maps["surface"][on & (grid.x > x0) & (grid.x < x1) & (grid.y > y0) & (grid.y < y1)] = _SURFACE[colour]


def _label_line(
    maps: dict[str, np.ndarray],
    grid: PatchGrid,
    font: ImageFont.FreeTypeFont,
    text: str,
    box: tuple[float, float, float, float],
    number: int,
) -> np.ndarray:
    """Labels the characters of a line of text. Returns which patches show it."""
    left, top, right, bottom = box
    on = (np.abs(grid.x - (left + right) / 2) < (right - left) / 2 + 3) & (
        np.abs(grid.y - (top + bottom) / 2) < (bottom - top) / 2 + 4
    )
    on &= grid.inside
    ends = np.array([font.getlength(text[: i + 1]) for i in range(len(text))])
    centres = left - font.getbbox(text)[0] + (ends + np.concatenate([[0], ends[:-1]])) / 2
    place = np.abs(grid.x[on][:, None] - centres).argmin(1)
    maps["place"][on] = place
    maps["character"][on] = np.array([CHARACTERS.index(c) for c in text])[place]
    maps["line"][on] = number
    return on
