"""Checks image files and has them decoded: bytes or a data: URL in, an RGB image out.

Every image that enters the program passes load_image. The decoders run in processes of their own, which may be killed (see
worker_pool.py). Knows nothing of models, the network or Gradio.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
import weakref
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import unquote_to_bytes

from PIL import Image, features

from mllama_demo.errors import ImageError
from mllama_demo.images import worker_pool
from mllama_demo.images.decoding import HEIF_BRAND, MAX_JPEG_SCANS, DecodingError, Problem
from mllama_demo.runtime.memory import MemoryBudget

_MAX_NAME = 80
# Of the worker and of this process, while an image is decoded. A pixel of an image takes 4 bytes, and some conversions make four
# images.
_DECODING_BYTES, _DECODING_BYTES_PER_PIXEL = 64 * 2**20, 16
_BYTES_PER_PIXEL = 4
_MAX_ESCAPES = 300_000  # each takes half a microsecond and 50 bytes to decode
_WAIT_S = 10.0  # for memory and for a worker

IMAGE_MEMORY = MemoryBudget(worker_pool.BUSY, "image_memory")


@cache
def format_names() -> str:
    """The formats that this installation reads, for people. Pillow reads AVIF from 11.3 on, and HEIC with pillow-heif."""
    names = ["PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF"]
    names += ["AVIF"] if features.check("avif") else []
    names += ["HEIC"] if importlib.util.find_spec("pillow_heif") else []
    return f"{', '.join(names[:-1])} and {names[-1]}"


@dataclass(frozen=True)
class ImageLimits:
    """The largest image that is accepted.

    Attributes:
        max_bytes: size of the file.
        max_pixels: width × height.
        max_aspect_ratio: long side / short side.
        max_memory: bytes that all images together may take, those that are being decoded and those that are decoded.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    max_aspect_ratio: float = 30.0
    max_memory: int = 1536 * 2**20


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
    data: bytes = field(repr=False)
    format: str
    digest: str
    name: str

    @property
    def width(self) -> int:
        return self.pixels.width

    @property
    def height(self) -> int:
        return self.pixels.height

    @property
    def memory(self) -> int:
        """The bytes that the image takes in memory."""
        return _BYTES_PER_PIXEL * self.width * self.height + len(self.data)


# --- bytes ---------------------------------------------------------------------------------------------------------------


def load_image(data: bytes, name: str = "image", limits: ImageLimits = DEFAULT_LIMITS) -> LoadedImage:
    """Checks and decodes the bytes of one image file.

    Takes the first frame or page, turns it upright by its EXIF orientation and lays transparency on white. Size and shape are
    checked from the header, before anything is decoded. The memory of the image is counted as long as its pixels exist. Safe to
    call from several threads. May wait for _WAIT_S seconds for a worker and for memory.

    Raises:
        ImageError: the bytes are no allowed image.
        ServerBusy: other images take the memory or the workers.
    """
    name = clean_name(name)
    if not data:
        raise _refusal(name, "is empty (0 bytes)", f"{format_names()} files are allowed")
    if len(data) > limits.max_bytes:
        raise _refusal(name, f"is too large ({size_text(len(data))})", _bytes_allowed(limits))
    try:
        with worker_pool.WORKERS.open(data, _WAIT_S) as file:
            check_shape(name, file.header.width, file.header.height, limits)
            pixels = _decode(file, name, len(data), limits)
    except DecodingError as error:
        raise _decoding_refusal(name, error.problem, data, limits) from error
    return LoadedImage(pixels, data, file.header.format, hashlib.sha256(data).hexdigest(), name)


def longest_turn_s(limits: ImageLimits) -> float:
    """How long load_image may take for the slowest file that the limits allow, once it has a worker."""
    return worker_pool.longest_use_s(limits.max_bytes, limits.max_pixels) + _WAIT_S


def _decode(file: worker_pool.OpenImage, name: str, size: int, limits: ImageLimits) -> Image.Image:
    count = file.header.width * file.header.height
    needed = _DECODING_BYTES + _DECODING_BYTES_PER_PIXEL * count + 2 * size
    if needed > limits.max_memory:
        raise _refusal(name, f"needs {size_text(needed)} of memory", f"at most {size_text(limits.max_memory)} are allowed")
    reservation = IMAGE_MEMORY.reserve(needed, limits.max_memory, _WAIT_S)
    try:
        pixels = file.decode(needed)
        reservation.resize(_BYTES_PER_PIXEL * count + size)
        weakref.finalize(pixels, reservation.release).atexit = False
    except BaseException:
        reservation.release()
        raise
    return pixels


def _decoding_refusal(name: str, problem: Problem, data: bytes, limits: ImageLimits) -> ImageError:
    formats = f"{format_names()} files are allowed"
    if problem == "unknown":
        return _refusal(name, f"is not an image that can be read{_guess(data)}", formats)
    if problem == "scans":
        return _refusal(name, "is a JPEG drawn in too many passes", f"at most {MAX_JPEG_SCANS} scans are allowed")
    if problem == "memory":
        return _refusal(name, "takes more memory to read than an image of its size should", _pixels_allowed(limits))
    if problem == "time":
        return _refusal(name, "takes too long to read", "save it again with another program, or in another format; " + formats)
    return _refusal(name, "is damaged or incomplete, so it cannot be decoded", f"whole {formats}")


def clean_name(name: str) -> str:
    """The name on one line of at most 80 printable characters; "image" when nothing is left."""
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


_OTHER_FILES = (
    (rb"\s*<(!doctype html|html|head|body)", "a web page"),
    (rb"\s*<(.*<)?svg", "an SVG drawing"),
    (rb"%PDF", "a PDF document"),
    (rb"PK\x03\x04", "a ZIP archive or an office document"),
    (rb"\x1f\x8b", "a gzip archive"),
    (HEIF_BRAND, "an HEIC photo"),
    (rb"....ftypavi[fs]", "an AVIF image"),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (rb"....ftyp", "a video"),
)


def _guess(data: bytes) -> str:
    """The likely kind of a file that is no allowed image, as the end of a clause; empty when unknown."""
    head = data[:2000].removeprefix(b"\xef\xbb\xbf")
    for pattern, what in _OTHER_FILES:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return f" (it looks like {what})"
    return ""


# --- data: URLs ----------------------------------------------------------------------------------------------------------


def from_data_url(url: str, name: str = "image", limits: ImageLimits = DEFAULT_LIMITS) -> LoadedImage:
    """The image in a data: URL (RFC 2397), base64 or percent-encoded. Raises ImageError like load_image.

    The media type may be missing in a base64 URL, or application/octet-stream: browsers know no type of HEIC files.
    """
    name = clean_name(name)
    head, comma, body = url.partition(",")
    scheme, _, media = head.partition(":")
    if scheme.strip().lower() != "data" or not comma or len(head) > 1000:
        raise _refusal(name, "is not a proper data: URL", "data:image/png;base64, followed by the data is allowed")
    media_type, *options = (part.strip().lower() for part in media.split(";"))
    unknown = media_type == "application/octet-stream" or (not media_type and "base64" in options)
    if not media_type.startswith("image/") and not unknown:
        found = clean_name(media_type) if media_type else "text/plain, the default"
        raise _refusal(name, f"is a data: URL of the media type {found}", "image media types such as image/png are allowed")
    too_large = _refusal(name, "is a data: URL that is too large", _bytes_allowed(limits))
    if len(body) > 4 * limits.max_bytes + 1000:  # 4: every character of a base64 text written as %XX
        raise too_large
    if body.count("%") > _MAX_ESCAPES:
        raise _refusal(name, "is a data: URL with too many percent signs", "base64 is allowed")
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
