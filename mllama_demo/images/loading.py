"""Checks and decodes image files: bytes or a data: URL in, an RGB image out.

Every image that enters the program passes load_image. Knows nothing of models, the network or Gradio.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from urllib.parse import unquote_to_bytes

from PIL import Image, features

from mllama_demo.errors import ImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")  # the decoders Pillow may use; other files are refused
_MAX_NAME = 100


@cache
def format_names() -> str:
    """The formats that this installation reads, for people. Pillow reads AVIF from 11.3 on, and HEIC with pillow-heif."""
    names = ["PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF"]
    names += ["AVIF"] if features.check("avif") else []
    names += ["HEIC"] if importlib.util.find_spec("pillow_heif") else []
    return f"{', '.join(names[:-1])} and {names[-1]}"


@cache
def _register_heif() -> None:
    """Lets Pillow read HEIC files, where pillow-heif is installed. Called late, because the import is large."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


@dataclass(frozen=True)
class ImageLimits:
    """The largest image that is accepted.

    Attributes:
        max_bytes: size of the file.
        max_pixels: width × height.
        max_aspect_ratio: long side / short side.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    max_aspect_ratio: float = 30.0


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image that passed every check.

    Attributes:
        pixels: mode RGB, upright, without metadata.
        data: the unchanged file.
        format: one of FORMATS.
        digest: sha-256 of data, hex.
        name: the user's name for the file, made printable.
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
    """Checks and decodes the bytes of one image file.

    Takes the first frame or page, turns it upright by its EXIF orientation and lays transparency on white. Size and shape are
    checked from the header, before anything is decoded. Safe to call from several threads.

    Raises:
        ImageError: the bytes are no allowed image. No other exception is raised, whatever the bytes are.
    """
    name = clean_name(name)
    if not data:
        raise _refusal(name, "is empty (0 bytes)", f"{format_names()} files are allowed")
    if len(data) > limits.max_bytes:
        raise _refusal(name, f"is too large ({size_text(len(data))})", _bytes_allowed(limits))
    try:
        if _HEIF_FILE.match(data[:64]):
            _register_heif()
        with Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in _registered()]) as image:
            kind = "JPEG" if image.format == "MPO" else image.format or ""  # MPO: a JPEG followed by more of them
            check_shape(name, image.width, image.height, limits)
            if kind == "JPEG" and _has_too_many_scans(data):
                raise _refusal(name, "is a JPEG drawn in too many passes", f"at most {_MAX_JPEG_SCANS} scans are allowed")
            image.load()
            check_shape(name, image.width, image.height, limits)
            pixels = _upright(_to_rgb(image), _orientation(image))
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise _refusal(name, f"is not an image that can be read{_guess(data)}", f"{format_names()} files are allowed") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _refusal(name, "has too many pixels", _pixels_allowed(limits)) from None
    except MemoryError:
        raise _refusal(name, "needs more memory than there is", _pixels_allowed(limits)) from None
    except Exception as error:  # for malformed files Pillow raises a dozen types, from struct.error to SyntaxError
        reason = "is damaged or incomplete, so it cannot be decoded"
        raise _refusal(name, reason, f"whole {format_names()} files are allowed") from error
    pixels.info = {}
    return LoadedImage(pixels, data, kind, hashlib.sha256(data).hexdigest(), name)


def clean_name(name: str) -> str:
    """The name on one line of at most 100 printable characters; "image" when nothing is left."""
    printable = "".join(c if c.isprintable() else " " for c in name[: 10 * _MAX_NAME])
    return " ".join(printable.split())[:_MAX_NAME] or "image"


def size_text(count: int) -> str:
    """A number of bytes as text: 20 MiB, 1.5 KiB, 12 bytes."""
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


def check_shape(name: str, width: int, height: int, limits: ImageLimits) -> None:
    """Raises ImageError when an image of this size breaks the limits."""
    if width < 1 or height < 1:
        raise _refusal(name, f"has no pixels ({width} × {height})", "at least 1 × 1 is needed")
    if width * height > limits.max_pixels:
        raise _refusal(name, f"has too many pixels ({width} × {height} = {width * height:,})", _pixels_allowed(limits))
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        allowed = f"its long side may be at most {limits.max_aspect_ratio:g} times its short side"
        raise _refusal(name, f"is too long and narrow ({width} × {height})", allowed)


# A scan of 100 bytes can make the decoder pass over every pixel, so a small file can take hours. libtiff has the same limit.
_MAX_JPEG_SCANS = 100
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # stuffed zeros and restarts are part of the scan around them
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01


def _has_too_many_scans(jpeg: bytes) -> bool:
    """Counts the scans of a JPEG file by its markers (ITU T.81, annex B)."""
    position, scans = 2, 0
    while scans <= _MAX_JPEG_SCANS and (marker := _JPEG_MARKER.search(jpeg, position)):
        code, position = marker[1][0], marker.end()
        if code == _EOI:
            break
        scans += code == _SOS
        if code not in (_SOI, _TEM):
            position += int.from_bytes(jpeg[position : position + 2], "big")
    return scans > _MAX_JPEG_SCANS


_HEIF_BRAND = rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)"
_HEIF_FILE = re.compile(_HEIF_BRAND, re.DOTALL)
_OTHER_FILES = (
    (rb"\s*<(!doctype html|html|head|body)", "a web page"),
    (rb"\s*<(.*<)?svg", "an SVG drawing"),
    (rb"%PDF", "a PDF document"),
    (rb"PK\x03\x04", "a ZIP archive or an office document"),
    (rb"\x1f\x8b", "a gzip archive"),
    (_HEIF_BRAND, "an HEIC photo"),
    (rb"....ftypavi[fs]", "an AVIF image"),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (rb"....ftyp", "a video"),
)


def _registered() -> Collection[str]:
    Image.init()  # without it, Pillow knows only the commonest formats
    return Image.OPEN


def _guess(data: bytes) -> str:
    """The likely kind of a file that is no allowed image, as the end of a clause; empty when unknown."""
    head = data[:2000].removeprefix(b"\xef\xbb\xbf")
    for pattern, what in _OTHER_FILES:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return f" (it looks like {what})"
    return ""


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
    """A new RGB image. Raises ValueError for a mode that Pillow cannot convert."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_gray(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    canvas = Image.new("RGB", layer.size, "white")
    canvas.paste(layer, mask=layer.getchannel("A"))
    return canvas


def _deep_gray(image: Image.Image) -> Image.Image:
    """Gray of 16 or 32 bits or in floating point, scaled to 8 bits.

    White is 65535 in a 16-bit file. Other files do not define white: it is the smallest of 1 (floating point only), 255 and
    65535 that no value exceeds. If no such value exists, the range from darkest to brightest is stretched to 0 to 255.
    """
    import numpy as np  # late: the command line imports this module for the limits of images

    values = np.asarray(image).astype(np.float32)
    values[~np.isfinite(values)] = 0.0
    low, high = float(values.min()), float(values.max())
    whites = (65535.0,) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((w for w in whites if high <= w), None)
    if low < 0 or white is None:
        values -= low
        white = (high - low) or 1.0
    return Image.fromarray(np.rint(values * (255.0 / white)).astype(np.uint8))


# --- data: URLs ----------------------------------------------------------------------------------------------------------


def from_data_url(url: str, name: str = "image", limits: ImageLimits = DEFAULT_LIMITS) -> LoadedImage:
    """The image in a data: URL (RFC 2397), base64 or percent-encoded. Raises ImageError like load_image."""
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
