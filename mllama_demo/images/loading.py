"""Bytes or a data: URL become a checked RGB image; the only door through which images come in (fetch.py brings the bytes).

Also says how many tiles the model will cut an image into. Knows nothing of models, the network or Gradio.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image

from mllama_demo.errors import ImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # the decoders Pillow may use; every other file is refused
FORMAT_NAMES = "PNG, JPEG, WebP, GIF, BMP and TIFF"
_MAX_NAME = 100


@dataclass(frozen=True)
class ImageLimits:
    """What an image may cost. max_bytes: of the file. max_pixels: width × height. max_aspect_ratio: long side / short side."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    max_aspect_ratio: float = 30.0


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image that passed every check.

    pixels: mode RGB, upright, without metadata. data: the file as it came. format: one of FORMATS. digest: sha-256 of data,
    hex. name: as the user knows it, made printable.
    """

    pixels: Image.Image
    data: bytes
    format: str
    digest: str
    name: str

    @property
    def width(self) -> int:
        return self.pixels.width

    @property
    def height(self) -> int:
        return self.pixels.height


# --- bytes ---------------------------------------------------------------------------------------------------------------


def load_image(data: bytes, name: str = "image", limits: ImageLimits = DEFAULT_LIMITS) -> LoadedImage:
    """Checks and decodes the bytes of one image file; of several frames or pages, the first.

    Turned upright by its EXIF orientation, transparency laid on white. Raises ImageError and nothing else, whatever the
    bytes are. Size and shape are read from the header, before anything is decoded. Safe to call from several threads.
    """
    name = clean_name(name)
    if not data:
        raise _refusal(name, "is empty (0 bytes)", f"{FORMAT_NAMES} files are allowed")
    if len(data) > limits.max_bytes:
        raise _refusal(name, f"is too large ({size_text(len(data))})", _bytes_allowed(limits))
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            kind = "JPEG" if image.format == "MPO" else image.format or ""  # MPO: a JPEG followed by more of them
            _check_shape(name, image.width, image.height, limits)
            if kind == "JPEG" and _has_too_many_scans(data):
                raise _refusal(name, "is a JPEG drawn in too many passes", f"at most {_MAX_JPEG_SCANS} scans are allowed")
            image.load()
            _check_shape(name, image.width, image.height, limits)
            pixels = _upright(_to_rgb(image), _orientation(image))
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise _refusal(name, f"is not an image that can be read{_guess(data)}", f"{FORMAT_NAMES} files are allowed") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _refusal(name, "has too many pixels", _pixels_allowed(limits)) from None
    except MemoryError:
        raise _refusal(name, "needs more memory than there is", _pixels_allowed(limits)) from None
    except Exception as error:  # for malformed files Pillow raises a dozen types, from struct.error to SyntaxError
        reason = "is damaged or incomplete, so it cannot be decoded"
        raise _refusal(name, reason, f"whole {FORMAT_NAMES} files are allowed") from error
    pixels.info = {}
    return LoadedImage(pixels, data, kind, hashlib.sha256(data).hexdigest(), name)


def clean_name(name: str) -> str:
    """The name on one line, without control or direction-changing characters, at most 100 characters; "image" when empty."""
    printable = "".join(c if c.isprintable() else " " for c in name[: 10 * _MAX_NAME])
    return " ".join(printable.split())[:_MAX_NAME] or "image"


def size_text(count: int) -> str:
    """A number of bytes for people: 20 MiB, 1.5 KiB, 12 bytes."""
    for unit, factor in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{count:,} bytes"


def _refusal(name: str, reason: str, allowed: str) -> ImageError:
    return ImageError(f'The image "{name}" {reason}; {allowed}.')


def _bytes_allowed(limits: ImageLimits) -> str:
    return f"at most {size_text(limits.max_bytes)} are allowed"


def _pixels_allowed(limits: ImageLimits) -> str:
    return f"at most {limits.max_pixels:,} pixels are allowed"


def _check_shape(name: str, width: int, height: int, limits: ImageLimits) -> None:
    if width < 1 or height < 1:
        raise _refusal(name, f"has no pixels ({width} × {height})", "at least 1 × 1 is needed")
    if width * height > limits.max_pixels:
        raise _refusal(name, f"has too many pixels ({width} × {height} = {width * height:,})", _pixels_allowed(limits))
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        allowed = f"its long side may be at most {limits.max_aspect_ratio:g} times its short side"
        raise _refusal(name, f"is too long and narrow ({width} × {height})", allowed)


# A scan of 100 bytes can cost the decoder a pass over every pixel: a small file, hours of work. libtiff draws the same line.
_MAX_JPEG_SCANS = 100
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # stuffed zeros and restarts are part of the scan around them
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01


def _has_too_many_scans(jpeg: bytes) -> bool:
    """Walks the markers of a JPEG file (ITU T.81, annex B) up to its end of image."""
    position, scans = 2, 0
    while scans <= _MAX_JPEG_SCANS and (marker := _JPEG_MARKER.search(jpeg, position)):
        code, position = marker[1][0], marker.end()
        if code == _EOI:
            break
        scans += code == _SOS
        if code not in (_SOI, _TEM):
            position += int.from_bytes(jpeg[position : position + 2], "big")
    return scans > _MAX_JPEG_SCANS


_OTHER_FILES = (
    (rb"\s*<(!doctype html|html|head|body)", "a web page"),
    (rb"\s*<(.*<)?svg", "an SVG drawing"),
    (rb"%PDF", "a PDF document"),
    (rb"PK\x03\x04", "a ZIP archive or an office document"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"....ftyp(heic|heix|hevc|mif1|msf1)", "an HEIC photo"),
    (rb"....ftypavi[fs]", "an AVIF image"),
    (rb"....ftyp", "a video"),
)


def _guess(data: bytes) -> str:
    """What a file that is no allowed image seems to be, as the end of a clause; empty when unknown."""
    head = data[:2000].removeprefix(b"\xef\xbb\xbf")
    for pattern, what in _OTHER_FILES:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return f" (it looks like {what})"
    return ""


# --- pixels --------------------------------------------------------------------------------------------------------------

# EXIF tag 274, Orientation: how the stored pixels have to be turned to stand upright; 1 is upright already.
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of a decoded image, 1 to 8. Read after decoding, since Pillow turns TIFF files by itself."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # broken metadata, for which Pillow raises many types, is no reason to refuse good pixels
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image; ValueError for a mode that Pillow cannot convert."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_gray(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    canvas = Image.new("RGB", layer.size, "white")
    canvas.paste(layer, mask=layer.getchannel("A"))
    return canvas


def _deep_gray(image: Image.Image) -> Image.Image:
    """Gray of 16 or 32 bits, or in floating point, scaled to 8 bits.

    16-bit files say where white is: 65535. The others do not, so white is the least of 1 (floating point only), 255 and
    65535 that no value exceeds; values outside all of those are stretched from darkest to brightest.
    """
    values = np.asarray(image).astype(np.float32)
    values[~np.isfinite(values)] = 0.0
    low, high = float(values.min()), float(values.max())
    whites = (65535.0,) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((w for w in whites if high <= w), None)
    if low < 0 or white is None:
        values -= low
        white = (high - low) or 1.0
    return Image.fromarray(np.rint(values * (255.0 / white)).astype(np.uint8))


def preview(image: LoadedImage, max_side: int = 1024) -> bytes:
    """A WebP file for showing in a browser: no side longer than max_side pixels, and none of the original's metadata."""
    scale = min(1.0, max_side / max(image.width, image.height))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.pixels.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0) if scale < 1 else image.pixels
    out = io.BytesIO()
    small.save(out, "WEBP", quality=85)
    return out.getvalue()


JOINED_HEIGHT, JOINED_GAP = 1120, 16  # pixels


def side_by_side(images: Sequence[LoadedImage], limits: ImageLimits = DEFAULT_LIMITS) -> LoadedImage:
    """Several images as one: from left to right, equally high and at most 1120 pixels, on white with a gap between them.

    Raises ImageError when what comes out breaks the limits.
    """
    high = min(JOINED_HEIGHT, max(image.height for image in images))
    sizes = [(max(1, round(image.width * high / image.height)), high) for image in images]
    wide = sum(width for width, _ in sizes) + JOINED_GAP * (len(images) - 1)
    name = " + ".join(image.name for image in images)
    _check_shape(clean_name(name), wide, high, limits)
    canvas = Image.new("RGB", (wide, high), "white")
    left = 0
    for image, size in zip(images, sizes, strict=True):
        canvas.paste(image.pixels.resize(size, Image.Resampling.LANCZOS), (left, 0))
        left += size[0] + JOINED_GAP
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return load_image(file.getvalue(), name, limits)


# --- data: URLs ----------------------------------------------------------------------------------------------------------


def from_data_url(url: str, name: str = "image", limits: ImageLimits = DEFAULT_LIMITS) -> LoadedImage:
    """The image in a data: URL (RFC 2397), base64 or percent-encoded. Raises ImageError as load_image does."""
    name = clean_name(name)
    head, comma, body = url.partition(",")
    scheme, _, media = head.partition(":")
    if scheme.strip().lower() != "data" or not comma or len(head) > 1000:
        raise _refusal(name, "is not a proper data: URL", "data:image/png;base64, followed by the data is allowed")
    media_type, *options = (part.strip().lower() for part in media.split(";"))
    if not media_type.startswith("image/"):
        found = clean_name(media_type) if media_type else "text/plain, the default"
        raise _refusal(name, f"is a data: URL of the media type {found}", "image media types such as image/png are allowed")
    too_large = _refusal(name, "is a data: URL that is too large", _bytes_allowed(limits))
    if len(body) > 4 * limits.max_bytes + 1000:  # 4: every character of a base64 text written as %XX
        raise too_large
    content = unquote_to_bytes(body.encode("ascii", "replace"))
    if "base64" in options:
        content = content.translate(None, delete=b" \t\r\n\f")
        if len(content) * 3 // 4 > limits.max_bytes + 2:
            raise too_large
        padding = b"" if content.endswith(b"=") else b"=" * (-len(content) % 4)  # browsers accept it without
        try:
            content = base64.b64decode(content + padding, validate=True)
        except ValueError:
            raise _refusal(name, "is a data: URL whose base64 text is broken", "A-Z, a-z, 0-9, +, / and = are allowed") from None
    return load_image(content, name, limits)


# --- tiles ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TileLayout:
    """How the model sees an image. rows × columns of square tiles; width, height: of the resized image in pixels, which
    lies in the top left corner of that canvas, the rest being padding."""

    rows: int
    columns: int
    width: int
    height: int

    @property
    def tiles(self) -> int:
        return self.rows * self.columns

    def __str__(self) -> str:
        return f"{self.tiles} {'tile' if self.tiles == 1 else 'tiles'} ({self.rows} × {self.columns})"


def tile_layout(width: int, height: int, tile_size: int, max_tiles: int, *, full_canvas: bool = False) -> TileLayout:
    """The canvas and the size that transformers' MllamaImageProcessor chooses for an image of width × height pixels.

    The canvas: the one that enlarges the image least, or else shrinks it least; of equals the one of least area, then of
    fewest rows. The size: fitted into the canvas, but a side below tile_size is enlarged no further than to tile_size.
    full_canvas: an image that would take fewer than max_tiles tiles is drawn as large as a canvas of max_tiles tiles allows,
    on the one that allows most; of equals the squarest.
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


def on_tiles(image: Image.Image, layout: TileLayout, tile_size: int) -> list[Image.Image]:
    """The square tiles that the image processor cuts the image into, row by row: resized, and padded with black."""
    canvas = Image.new("RGB", (layout.columns * tile_size, layout.rows * tile_size))
    canvas.paste(image.resize((layout.width, layout.height), Image.Resampling.BILINEAR))
    corners = [(column * tile_size, row * tile_size) for row in range(layout.rows) for column in range(layout.columns)]
    return [canvas.crop((x, y, x + tile_size, y + tile_size)) for x, y in corners]


def aspect_ratio_number(layout: TileLayout, max_tiles: int) -> tuple[int, int]:
    """Which of the model's aspect ratios the layout is, and of how many: transformers' aspect_ratio_id, counted from 1."""
    ratios = [(r, c) for r in range(1, max_tiles + 1) for c in range(1, max_tiles // r + 1)]
    return ratios.index((layout.rows, layout.columns)) + 1, len(ratios)
