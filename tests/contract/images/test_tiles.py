# pyright: reportCallIssue=false
"""tile_layout agrees with transformers' own image processor, for common and for extreme shapes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mllama_demo.images.tiles import TileLayout, aspect_ratio_id, cut_into_tiles, tile_layout
from tests.support.image_processor import (
    MllamaImageProcessorPil,
    get_all_supported_aspect_ratios,
    get_image_size_fit_to_canvas,
    get_optimal_tiled_canvas,
)


def some_sizes(count: int, largest: int) -> list[tuple[int, int]]:
    rng = random.Random(20)
    sizes = [(rng.randint(1, largest), rng.randint(1, largest)) for _ in range(count)]
    edges = [1, 2, 27, 28, 29, 55, 56, 57, 84, 111, 112, 113, largest]
    return sizes + [(w, h) for w in edges for h in edges]


@pytest.mark.parametrize("max_tiles", [1, 2, 4, 6])
def test_the_processor_makes_the_announced_tiles_at_the_announced_size(max_tiles):
    tile = 28
    processor = MllamaImageProcessorPil(
        size={"height": tile, "width": tile}, max_image_tiles=max_tiles, do_normalize=False, do_rescale=False
    )
    ids = get_all_supported_aspect_ratios(max_tiles)
    for width, height in some_sizes(100, 300):
        layout = tile_layout(width, height, tile, max_tiles)
        made = processor(Image.new("RGB", (width, height), "white"), return_tensors="np")
        where = f"{width} × {height}"
        assert made["num_tiles"] == [[layout.tiles]], where
        assert made["aspect_ratio_ids"].tolist() == [[ids.index((layout.rows, layout.columns)) + 1]], where
        tiles = made["pixel_values"][0, 0, : layout.tiles, 0].reshape(layout.rows, layout.columns, tile, tile)
        canvas = tiles.transpose(0, 2, 1, 3).reshape(layout.rows * tile, layout.columns * tile)
        image = np.argwhere(canvas > 0).max(axis=0) + 1  # padding is black
        assert (layout.height, layout.width) == tuple(image), where


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.integers(1, 60_000), st.integers(1, 60_000), st.sampled_from([14, 224, 336, 448, 560]), st.integers(1, 9))
@example(1, 60_000, 560, 4)
@example(60_000, 1, 560, 4)
@example(560, 560, 560, 4)
@example(561, 560, 560, 4)
@example(1120, 1120, 560, 4)
def test_the_choice_is_the_same_at_any_size(width, height, tile, max_tiles):
    layout = tile_layout(width, height, tile, max_tiles)
    canvas = get_optimal_tiled_canvas(height, width, max_tiles, tile)
    assert (layout.rows * tile, layout.columns * tile) == tuple(canvas)
    assert (layout.height, layout.width) == get_image_size_fit_to_canvas(height, width, *canvas, tile)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.integers(1, 60_000), st.integers(1, 60_000), st.sampled_from([14, 84, 560]), st.integers(1, 4))
@example(560, 560, 560, 4)
@example(1120, 560, 560, 4)
@example(1, 60_000, 560, 4)
def test_on_a_full_canvas_a_picture_takes_all_tiles_and_no_processor_changes_it_any_more(width, height, tile, max_tiles):
    usual, full = tile_layout(width, height, tile, max_tiles), tile_layout(width, height, tile, max_tiles, full_canvas=True)
    assert full.tiles == max_tiles
    if usual.tiles == max_tiles:
        assert full == usual
    else:
        canvases = [(r * tile, max_tiles // r * tile) for r in range(1, max_tiles + 1) if max_tiles % r == 0]
        largest = max(min(high / height, wide / width) for high, wide in canvases)
        assert full.width == pytest.approx(max(1, width * largest), abs=1)
        assert full.height == pytest.approx(max(1, height * largest), abs=1)
    canvas = (full.columns * tile, full.rows * tile)
    assert tile_layout(*canvas, tile, max_tiles) == TileLayout(full.rows, full.columns, *canvas)


def test_a_layout_as_text():
    assert str(tile_layout(100, 100, 560, 4)) == "1 tile (1 × 1)"
    assert str(tile_layout(1000, 500, 560, 4)) == "2 tiles (1 × 2)"
    assert tile_layout(500, 1000, 560, 4) == TileLayout(rows=2, columns=1, width=500, height=1000)


@pytest.mark.parametrize("arguments", [(0, 10, 560, 4), (10, -1, 560, 4), (10, 10, 0, 4), (10, 10, 560, 0)])
def test_sizes_below_one_are_a_mistake(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        tile_layout(*arguments)


@pytest.mark.parametrize("size", [(28, 28), (100, 40), (40, 100), (300, 299), (17, 5), (56, 56)])
def test_the_tiles_that_are_shown_are_the_tiles_that_the_processor_makes(size):
    tile, most = 28, 4
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    processor = MllamaImageProcessorPil(
        size={"height": tile, "width": tile}, max_image_tiles=most, do_normalize=False, do_rescale=False
    )
    made = processor(image, return_tensors="np")["pixel_values"][0, 0]
    layout = tile_layout(*size, tile, most)
    shown = cut_into_tiles(image, layout, tile)
    assert len(shown) == layout.tiles
    for ours, theirs in zip(shown, made, strict=False):
        assert np.array_equal(np.asarray(ours), theirs.transpose(1, 2, 0))
    ids = get_all_supported_aspect_ratios(most)
    assert aspect_ratio_id(layout, most) == (ids.index((layout.rows, layout.columns)) + 1, len(ids))
