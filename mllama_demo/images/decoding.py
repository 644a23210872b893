"""Decodes image files with Pillow: bytes in, an upright RGB image out. Runs in the worker processes of worker.py.

A hostile file may make a decoder take any time and any memory; who calls this module limits both. The module must not import more
than Pillow and, where it is needed, numpy.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Literal, NamedTuple

from PIL import Image, ImageFile, TiffImagePlugin

from mllama_demo.images.metadata import without_metadata

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")  # the decoders Pillow may use; other files are refused
HEIF_BRAND = rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)"
_HEIF_FILE = re.compile(HEIF_BRAND, re.DOTALL)
# A scan of 100 bytes can make the decoder pass over every pixel, so a small file can take hours. libtiff has the same limit.
MAX_JPEG_SCANS = 100

Problem = Literal["unknown", "scans", "memory", "time", "damaged"]


class DecodingError(Exception):
    """Why a file cannot be decoded.

    Attributes:
        problem: "unknown": the file has none of FORMATS; "scans": a JPEG of more than MAX_JPEG_SCANS scans; "memory" and
            "time": decoding takes more than is allowed; "damaged": everything else.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem: Problem = problem


class Header(NamedTuple):
    """What a file says of itself before its pixels are decoded: one of FORMATS, and its size in pixels."""

    format: str
    width: int
    height: int


class ImageFileReader:
    """One image file, opened and not yet decoded.

    Raises:
        DecodingError: the bytes are no image file that can be read.
    """

    def __init__(self, data: bytes) -> None:
        with _named_problems():
            if _HEIF_FILE.match(data[:64]):
                register_heif()
            self._data = without_metadata(data)
            self._image: ImageFile.ImageFile | None = None
            webp_size = _webp_size(data)
            if webp_size is not None:  # Pillow takes memory for two images when it opens a WebP file
                self.header = Header("WEBP", *webp_size)
                return
            image = self._image = _open(self._data)
            if image.format == "TIFF" and _is_plain_ycbcr(image):
                image = self._image = _open(self._data, all_tiff_by_libtiff=True)
            if _is_deep_gray(image):
                import numpy as np  # noqa: F401 - now, because decode() may be allowed less memory than the import takes
            kind = "JPEG" if image.format == "MPO" else image.format or ""  # MPO: a JPEG followed by more of them
            self.header = Header(kind, image.width, image.height)

    def decode(self) -> Image.Image:
        """The first frame or page: upright by its EXIF orientation, in the mode RGB, transparency laid on white. Call it once.

        Raises:
            DecodingError: the file is damaged, or needs more memory than there is.
        """
        with _named_problems(), self._image or _open(self._data) as image:
            if image.format == "JPEG" and _has_too_many_scans(self._data):
                raise DecodingError("scans")
            image.load()
            orientation = _orientation(image)
            self._image = None  # the memory of one mode is free before the image is turned
            return _upright(_to_rgb(image), orientation)


@contextlib.contextmanager
def _named_problems() -> Iterator[None]:
    """Turns whatever Pillow raises into a DecodingError."""
    try:
        yield
    except DecodingError:
        raise
    except Image.UnidentifiedImageError:
        raise DecodingError("unknown") from None
    except MemoryError:
        raise DecodingError("memory") from None
    except Exception as error:  # for malformed files Pillow raises a dozen types, from struct.error to SyntaxError
        raise DecodingError("damaged") from error


def _open(data: bytes, *, all_tiff_by_libtiff: bool = False) -> ImageFile.ImageFile:
    TiffImagePlugin.READ_LIBTIFF = all_tiff_by_libtiff
    try:
        return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in _registered()])
    finally:
        TiffImagePlugin.READ_LIBTIFF = False


_WEBP_FILE = re.compile(rb"RIFF....WEBP(VP8X|VP8L|VP8 )", re.DOTALL)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a WebP file (RFC 9649); None for other files, and for a header that is wrong."""
    match = _WEBP_FILE.match(data)
    if match is None or len(data) < 30:
        return None
    if match[1] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if match[1] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)) if data[20] == 0x2F else None
    if data[23:26] != b"\x9d\x01\x2a":
        return None
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _is_plain_ycbcr(image: Image.Image) -> bool:
    """Whether a TIFF has YCbCr pixels without compression. Pillow's own reader takes them for RGBX; libtiff converts them."""
    tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    return tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 6 and tags.get(TiffImagePlugin.COMPRESSION, 1) == 1


@cache
def register_heif() -> None:
    """Lets Pillow read HEIC files, where pillow-heif is installed. Called late, because the import is large."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def _registered() -> Collection[str]:
    Image.init()  # without it, Pillow knows only the commonest formats
    return Image.OPEN


_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # stuffed zeros and restarts are part of the scan around them
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01


def _has_too_many_scans(jpeg: bytes) -> bool:
    """Counts the scans of a JPEG file by its markers (ITU T.81, annex B)."""
    position, scans = 2, 0
    while scans <= MAX_JPEG_SCANS and (marker := _JPEG_MARKER.search(jpeg, position)):
        code, position = marker[1][0], marker.end()
        if code == _EOI:
            break
        scans += code == _SOS
        if code not in (_SOI, _TEM):
            position += int.from_bytes(jpeg[position : position + 2], "big")
    return scans > MAX_JPEG_SCANS


# --- pixels --------------------------------------------------------------------------------------------------------------

# EXIF tag 274, Orientation: how to turn the stored pixels upright. 1 means that they are upright.
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
    """The EXIF orientation of a decoded image, 1 to 8. It is read after decoding because Pillow itself turns TIFF files."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # Pillow raises many types for broken metadata; the pixels may still be good
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_rgb(image: Image.Image) -> Image.Image:
    """An image in the mode RGB. Raises ValueError for a mode that Pillow cannot convert."""
    if _is_deep_gray(image):
        return _deep_gray(image).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", layer.size, "white")
    canvas.paste(layer, mask=layer.getchannel("A"))
    return canvas


def _is_deep_gray(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _deep_gray(image: Image.Image) -> Image.Image:
    """Gray of 16 or 32 bits or in floating point, scaled to 8 bits.

    White is 65535 in a 16-bit file. Other files do not define white: it is the smallest of 1 (floating point only), 255 and
    65535 that no value exceeds. If no such value exists, the range from darkest to brightest is stretched to 0 to 255.
    """
    import numpy as np  # late: few images need it

    values = np.asarray(image).astype(np.float32)
    values[~np.isfinite(values)] = 0.0
    low, high = float(values.min()), float(values.max())
    whites = (65535.0,) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((w for w in whites if high <= w), None)
    if low < 0 or white is None:
        values -= low
        white = (high - low) or 1.0
    values *= 255.0 / white
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8))
