# pyright: reportIndexIssue=false, reportOptionalSubscript=false
"""What the model sees of an image: the tiles, and the list of sizes about them."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import pytest
from PIL import Image

from mllama_demo.engine.base import BackendInfo
from mllama_demo.images.loading import LoadedImage
from mllama_demo.ui.tile_view import CACHE_SIZE, TileViews, tile_view

INFO = BackendInfo("scripted", "a model", "cpu", slots=4, context_length=2048, tile_size=32, max_tiles=4)


def image_file(width: int, height: int, color: str = "red", name: str = "a.png") -> LoadedImage:
    return LoadedImage(Image.new("RGB", (width, height), color), b"", "PNG", f"{width} {height} {color}", name)


def tiles(html: str) -> list[Image.Image]:
    sources = re.findall(r'src="data:image/webp;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(source))).convert("RGB") for source in sources]


@pytest.mark.parametrize(
    ("size", "columns", "said"),
    [
        ((32, 32), 1, ["32 × 32 px, its own size", "1 tile of 32 × 32 px", "1 × 1 (rows", "1 of 8", "none"]),
        ((64, 48), 2, ["64 × 48 px, its own size", "4 tiles of 32 × 32 px", "2 × 2 (rows", "6 of 8", "25 % of the tiles"]),
        ((16, 8), 1, ["32 × 16 px, 200 %", "1 tile of", "1 × 1 (rows", "50 % of the tiles"]),
        ((1280, 320), 4, ["128 × 32 px, 10 %", "4 tiles of", "1 × 4 (rows × columns), 4 of 8", "none"]),
    ],
)
def test_the_tiles_are_shown_with_sizes_and_aspect_ratio(size: tuple[int, int], columns: int, said: list[str]) -> None:
    html = tile_view(image_file(*size), INFO)
    assert f"a.png, {size[0]} × {size[1]} px" in html
    for words in said:
        assert words in html
    assert f"repeat({columns}, 1fr)" in html
    assert {tile.size for tile in tiles(html)} == {(32, 32)}


def test_the_image_lies_in_the_top_left_corner_and_the_rest_is_black() -> None:
    shown = tiles(tile_view(image_file(64, 48), INFO))
    assert len(shown) == 4
    for index, tile in enumerate(shown):
        reds = [tile.getpixel((5, y)) for y in (3, 28)]
        assert reds[0][0] > 200
        assert (reds[1][0] > 200) == (index < 2), "the lower half of the lower tiles is padding"


def test_a_backend_that_always_takes_all_tiles_shows_all_tiles() -> None:
    assert len(tiles(tile_view(image_file(32, 32), replace(INFO, full_canvas=True)))) == 4


def test_an_image_name_is_escaped() -> None:
    assert "<script" not in tile_view(image_file(8, 8, name="<script>.png"), INFO)


def test_a_tile_view_is_made_once_and_the_last_few_are_cached() -> None:
    made: list[int] = []
    views = TileViews(lambda: INFO)

    def show(width: int) -> str:
        image = image_file(width, 8)
        return views.html(image.digest, image.name, lambda: made.append(width) or image)

    first = show(1)
    assert show(1) == first
    assert made == [1]
    for width in range(2, CACHE_SIZE + 2):
        show(width)
    show(1)
    assert made[-1] == 1
    assert len(made) == CACHE_SIZE + 2


def test_a_server_that_does_not_tell_its_tiles_is_named() -> None:
    views = TileViews(lambda: replace(INFO, name="far away", tile_size=0, max_tiles=0))
    assert "the server far away does not tell" in views.html("x", "a.png", lambda: image_file(8, 8))
