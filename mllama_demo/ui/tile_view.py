"""What the model sees of an image, as HTML: the image resized, padded and cut into tiles as the image processor does it."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable
from html import escape

from cachetools import LRUCache
from PIL import Image

from mllama_demo.engine.base import BackendInfo
from mllama_demo.images.loading import LoadedImage
from mllama_demo.images.tiles import aspect_ratio_id, cut_into_tiles, tile_layout
from mllama_demo.runtime.words import counted

CACHE_SIZE = 16


def no_tiles(sentence: str) -> str:
    """HTML: why there are no tiles to show."""
    return f'<p class="tile-view-empty">{escape(sentence)}</p>'


NO_IMAGE = no_tiles("No picture yet. Add one, and see it here as the model gets it.")


class TileViews:
    """Makes the HTML of images, and caches the last few. Safe to use from several threads."""

    def __init__(self, info: Callable[[], BackendInfo]) -> None:
        """info: called for each image, because another server may answer at the same address by now."""
        self._info = info
        self._cache: LRUCache[tuple[object, ...], str] = LRUCache(CACHE_SIZE)
        self._lock = threading.Lock()

    def html(self, digest: str, name: str, load: Callable[[], LoadedImage]) -> str:
        """The tiles of an image for the backend's model. load: called when the HTML is not cached."""
        info = self._info()
        if not info.tile_size:
            return no_tiles(f"{name}: the server {info.name} does not tell how it cuts pictures into tiles.")
        key = digest, name, info.tile_size, info.max_tiles, info.full_canvas
        with self._lock:
            cached = self._cache.get(key)
        if cached is not None:
            return cached
        made = tile_view(load(), info)
        with self._lock:
            self._cache[key] = made
        return made

    def discard(self, digest: str) -> None:
        """Removes an image from the cache."""
        with self._lock:
            for key in [key for key in self._cache if key[0] == digest]:
                del self._cache[key]


def tile_view(image: LoadedImage, info: BackendInfo) -> str:
    """HTML: the tiles in their grid, above a list of sizes, tiles and aspect ratio."""
    layout = tile_layout(image.width, image.height, info.tile_size, info.max_tiles, full_canvas=info.full_canvas)
    tiles = "".join(
        f'<img src="{_data_url(tile)}" alt="Tile {index + 1} of {layout.tiles}: row {index // layout.columns + 1}, '
        f'column {index % layout.columns + 1}">'
        for index, tile in enumerate(cut_into_tiles(image.pixels, layout, info.tile_size))
    )
    number, ratios = aspect_ratio_id(layout, info.max_tiles)
    scale = layout.width / image.width
    change = "its own size" if scale == 1 else f"{100 * scale:.0f} % of its size"
    padding = 100 * (1 - layout.width * layout.height / (layout.tiles * info.tile_size**2))
    rows = (
        ("Picture", f"{image.name}, {image.width} × {image.height} px"),
        ("Resized", f"{layout.width} × {layout.height} px, {change}"),
        ("Cut into", f"{counted(layout.tiles, 'tile')} of {info.tile_size} × {info.tile_size} px"),
        ("Aspect ratio", f"{layout.rows} × {layout.columns} (rows × columns), {number} of {ratios}"),
        ("Padding", f"{padding:.0f} % of the tiles, in black" if padding >= 0.5 else "none"),
    )
    terms = "".join(f"<dt>{term}</dt><dd>{escape(text)}</dd>" for term, text in rows)
    columns = f"grid-template-columns: repeat({layout.columns}, 1fr); --columns: {layout.columns}; --rows: {layout.rows}"
    enlarge = '<button type="button" class="message-action enlarge">Look closer</button>'
    return f'<section class="tile-view"><div class="tiles" style="{columns}">{tiles}</div><dl>{terms}</dl>{enlarge}</section>'


def _data_url(tile: Image.Image) -> str:
    file = io.BytesIO()
    tile.save(file, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
