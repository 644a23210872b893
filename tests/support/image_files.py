"""Image files made by a test."""

from __future__ import annotations

import io
from typing import Any

import pillow_heif
from PIL import Image

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
ORIENTATION = 0x0112


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    if format == "HEIF":
        pillow_heif.register_heif_opener()
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def corners() -> Image.Image:
    """40 × 20, every quarter in a colour of its own."""
    image = Image.new("RGB", (40, 20), WHITE)
    image.paste(RED, (0, 0, 20, 10))
    image.paste(GREEN, (20, 0, 40, 10))
    image.paste(BLUE, (0, 10, 20, 20))
    return image
