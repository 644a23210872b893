"""Labels that say for each 14 × 14 patch of a picture what it shows.

The first stage of training learns the vision layers from these labels alone, without text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mllama_demo.images.tiles import TileLayout
from training.drawings import DrawingBank
from training.kinds import BACKGROUND, CHARACTERS, FOREIGN, MAX_COUNT, MAX_WORD, PATCH_KINDS, PATCH_SURFACES, REGIONS, TEXT
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
    "place": MAX_WORD,  # index of the character in its word
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
    if thing.kind == TEXT:
        font, ink = fit_text(thing, round(right - left), round(bottom - top), bank, scene.split)
        left = (left + right - (ink[2] - ink[0])) / 2
        right = left + ink[2] - ink[0]
        middle = (top + bottom) / 2
        top, bottom = middle - (ink[3] - ink[1]) / 2, middle + (ink[3] - ink[1]) / 2
        on = (np.abs(grid.x - (left + right) / 2) < (right - left) / 2 + 3) & (np.abs(grid.y - middle) < (bottom - top) / 2 + 4)
        ends = np.array([font.getlength(thing.text[: i + 1]) for i in range(len(thing.text))])
        centres = left - ink[0] + (ends + np.concatenate([[0], ends[:-1]])) / 2
        place = np.abs(grid.x[on & grid.inside][:, None] - centres).argmin(1)
        maps["place"][on & grid.inside] = place
        maps["character"][on & grid.inside] = np.array([CHARACTERS.index(c) for c in thing.text])[place]
    else:
        reach_x, reach_y = (right - left) / 2 + 3, (bottom - top) / 2 + 3
        on = ((grid.x - (left + right) / 2) / reach_x) ** 2 + ((grid.y - (top + bottom) / 2) / reach_y) ** 2 <= 1
        maps["count"][on & grid.inside] = min(scene.count(thing.kind), MAX_COUNT) - 1
    on &= grid.inside
    maps["kind"][on] = _KIND[thing.kind]
    maps["surface"][on] = _SURFACE[thing.colour or "none"]
    if thing.cell is not None:
        maps["region"][on] = _REGION[thing.cell]
