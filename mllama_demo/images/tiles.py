"""How Llama 3.2 Vision's image processor cuts an image into tiles. Pure geometry; knows no models and no files."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from mllama_demo.runtime.words import counted


@dataclass(frozen=True)
class TileLayout:
    """A canvas of square tiles, and the size at which an image lies on it.

    Attributes:
        rows, columns: the tiles of the canvas.
        width, height: the resized image in pixels. It lies in the top left corner; the rest of the canvas is padding.
    """

    rows: int
    columns: int
    width: int
    height: int

    @property
    def tiles(self) -> int:
        return self.rows * self.columns

    def __str__(self) -> str:
        return f"{counted(self.tiles, 'tile')} ({self.rows} × {self.columns})"


def tile_layout(width: int, height: int, tile_size: int, max_tiles: int, *, full_canvas: bool = False) -> TileLayout:
    """The layout that transformers' MllamaImageProcessor chooses for an image of width × height pixels.

    The canvas is the one that enlarges the image least; if every canvas shrinks the image, the one that shrinks it least.
    Ties go to the smaller area, then to fewer rows. The image is fitted into the canvas, but a side below tile_size is
    enlarged to tile_size at most.

    Args:
        full_canvas: draw an image that would take fewer than max_tiles tiles on the canvas of max_tiles tiles that lets it
            be largest, as large as that canvas allows. Ties go to the squarest canvas.
    """
    if min(width, height, tile_size, max_tiles) < 1:
        raise ValueError(f"sizes and tile counts are at least 1, not {width} × {height}, {tile_size} and {max_tiles}")

    def rank(canvas: tuple[int, int]) -> tuple[bool, float, int, int]:
        rows, columns = canvas
        scale = min(rows * tile_size / height, columns * tile_size / width)
        return scale < 1, -scale if scale < 1 else scale, rows * columns, rows

    canvases = [(r, c) for r in range(1, max_tiles + 1) for c in range(1, max_tiles // r + 1)]
    rows, columns = min(canvases, key=rank)
    width_limit = height_limit = tile_size
    if full_canvas and rows * columns < max_tiles:
        full = [(r, c) for r, c in canvases if r * c == max_tiles]
        rows, columns = max(full, key=lambda canvas: (min(canvas[0] / height, canvas[1] / width), -max(canvas)))
        width_limit, height_limit = columns * tile_size, rows * tile_size
    wide = min(max(width, width_limit), columns * tile_size)
    high = min(max(height, height_limit), rows * tile_size)
    if wide / width < high / height:
        high = min(max(1, int(height * (wide / width))), high)
    else:
        wide = min(max(1, int(width * (high / height))), wide)
    return TileLayout(rows, columns, wide, high)


def cut_into_tiles(image: Image.Image, layout: TileLayout, tile_size: int) -> list[Image.Image]:
    """The tiles of an image, row by row: the image is resized, padded with black and cut."""
    canvas = Image.new("RGB", (layout.columns * tile_size, layout.rows * tile_size))
    canvas.paste(image.resize((layout.width, layout.height), Image.Resampling.BILINEAR))
    corners = [(column * tile_size, row * tile_size) for row in range(layout.rows) for column in range(layout.columns)]
    return [canvas.crop((x, y, x + tile_size, y + tile_size)) for x, y in corners]


def aspect_ratio_id(layout: TileLayout, max_tiles: int) -> tuple[int, int]:
    """The layout's aspect_ratio_id as transformers counts it, from 1, and the number of aspect ratios the model knows."""
    ratios = [(r, c) for r in range(1, max_tiles + 1) for c in range(1, max_tiles // r + 1)]
    return ratios.index((layout.rows, layout.columns)) + 1, len(ratios)
