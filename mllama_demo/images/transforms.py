"""New images made of loaded ones: a small preview for a browser, and several images joined into one."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from mllama_demo.images.loading import DEFAULT_LIMITS, ImageLimits, LoadedImage, check_shape, clean_name, load_image

MAX_PNG_PIXELS = 8_000_000
JOINED_HEIGHT, JOINED_GAP = 1120, 16  # pixels


def preview(image: LoadedImage, max_side: int = 1024) -> bytes:
    """The image as a WebP file without metadata, no side longer than max_side pixels."""
    scale = min(1.0, max_side / max(image.width, image.height))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.pixels.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0) if scale < 1 else image.pixels
    out = io.BytesIO()
    small.save(out, "WEBP", quality=85)
    return out.getvalue()


def full_size(image: LoadedImage) -> tuple[bytes, str]:
    """The image in its own size, without metadata: PNG, or JPEG of high quality for a photo.

    Returns:
        The file and its suffix.
    """
    out = io.BytesIO()
    if image.format in ("PNG", "GIF", "BMP", "TIFF") and image.width * image.height <= MAX_PNG_PIXELS:
        image.pixels.save(out, "PNG", compress_level=3)
        return out.getvalue(), "png"
    image.pixels.save(out, "JPEG", quality=92, subsampling=0)
    return out.getvalue(), "jpg"


def side_by_side(images: Sequence[LoadedImage], limits: ImageLimits = DEFAULT_LIMITS) -> LoadedImage:
    """Joins images from left to right, on white with a gap between them, all at the same height of at most 1120 pixels.

    Raises:
        ImageError: the joined image breaks the limits.
    """
    high = min(JOINED_HEIGHT, max(image.height for image in images))
    sizes = [(max(1, round(image.width * high / image.height)), high) for image in images]
    wide = sum(width for width, _ in sizes) + JOINED_GAP * (len(images) - 1)
    name = " + ".join(image.name for image in images)
    check_shape(clean_name(name), wide, high, limits)
    canvas = Image.new("RGB", (wide, high), "white")
    left = 0
    for image, size in zip(images, sizes, strict=True):
        canvas.paste(image.pixels.resize(size, Image.Resampling.LANCZOS), (left, 0))
        left += size[0] + JOINED_GAP
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return load_image(file.getvalue(), name, limits)
