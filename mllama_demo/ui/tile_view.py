"""What the model sees of a picture, for people to look at: resized, padded and cut into tiles as the image processor does it."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from html import escape

from PIL import Image

from mllama_demo.engine.base import BackendInfo
from mllama_demo.images.loading import LoadedImage
from mllama_demo.images.tiles import aspect_ratio_id, cut_into_tiles, tile_layout

KEPT = 16


def not_seen(sentence: str) -> str:
    """HTML: why there is nothing to see."""
    return f'<p class="sight-none">{escape(sentence)}</p>'


NOTHING = not_seen("No picture yet. Add one, and see it here as the model gets it.")


class TileViews:
    """Makes the HTML for pictures; the last few are kept. Safe to use from several threads."""

    def __init__(self, info: Callable[[], BackendInfo]) -> None:
        """info: asked anew each time, since a server may be another one than before."""
        self._info = info
        self._kept: OrderedDict[tuple[object, ...], str] = OrderedDict()
        self._lock = threading.Lock()

    def html(self, digest: str, name: str, load: Callable[[], LoadedImage]) -> str:
        """The tiles of an image as the backend's model gets them, and how they came about. load: called if it must be made."""
        info = self._info()
        if not info.tile_size:
            return not_seen(f"{name}: the server {info.name} does not tell how it cuts pictures into tiles.")
        key = digest, name, info.tile_size, info.max_tiles, info.full_canvas
        with self._lock:
            found = self._kept.pop(key, None)
        made = found or sight(load(), info)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    def discard(self, digest: str) -> None:
        """Forgets what was made of a picture."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == digest]:
                del self._kept[key]


def sight(image: LoadedImage, info: BackendInfo) -> str:
    """HTML: the tiles as pictures in their grid, above the figures of sizes, tiles and aspect ratio."""
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
        ("Cut into", f"{layout.tiles} {'tile' if layout.tiles == 1 else 'tiles'} of {info.tile_size} × {info.tile_size} px"),
        ("Aspect ratio", f"{layout.rows} × {layout.columns} (rows × columns), {number} of {ratios}"),
        ("Padding", f"{padding:.0f} % of the tiles, in black" if padding >= 0.5 else "none"),
    )
    terms = "".join(f"<dt>{term}</dt><dd>{escape(text)}</dd>" for term, text in rows)
    # Tall pictures stay as wide as others: each tile is a part of the same panel.
    columns = f"grid-template-columns: repeat({layout.columns}, 1fr); --columns: {layout.columns}; --rows: {layout.rows}"
    larger = '<button type="button" class="act larger">Look closer</button>'
    return f'<section class="sight"><div class="tiles" style="{columns}">{tiles}</div><dl>{terms}</dl>{larger}</section>'


def _data_url(tile: Image.Image) -> str:
    file = io.BytesIO()
    tile.save(file, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
