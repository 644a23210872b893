"""Masks of the shapes: circle, square, triangle, …"""

from __future__ import annotations

import functools
import math

from PIL import Image, ImageDraw

_SIDE = 384  # pixels; shapes are drawn large and scaled down, for smooth edges


def _on_heart(t: float) -> tuple[float, float]:
    """A point of the parametric heart curve, scaled into the unit square. t: 0 to 2π."""
    height = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return 0.5 + 0.5 * math.sin(t) ** 3, 0.46 - height / 34


_POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)],
    "triangle": [(0.5, 0.05), (0.97, 0.92), (0.03, 0.92)],
    "diamond": [(0.5, 0.0), (0.86, 0.5), (0.5, 1.0), (0.14, 0.5)],
    "star": [
        (0.5 + r * math.sin(i * math.pi / 5), 0.53 - r * math.cos(i * math.pi / 5))
        for i in range(10)
        for r in [(0.52, 0.21)[i % 2]]
    ],
    "hexagon": [(0.5 + 0.49 * math.cos(i * math.pi / 3), 0.5 + 0.49 * math.sin(i * math.pi / 3)) for i in range(6)],
    "cross": [
        (0.36, 0.04), (0.64, 0.04), (0.64, 0.36), (0.96, 0.36), (0.96, 0.64), (0.64, 0.64),
        (0.64, 0.96), (0.36, 0.96), (0.36, 0.64), (0.04, 0.64), (0.04, 0.36), (0.36, 0.36),
    ],
    "heart": [_on_heart(i * math.tau / 60) for i in range(60)],
}  # fmt: skip


@functools.cache
def shape_mask(name: str) -> Image.Image | None:
    """The mask of a shape, 128 × 128 pixels, mode L (255 inside the shape); None if the name is no shape."""
    mask = Image.new("L", (_SIDE, _SIDE))
    draw = ImageDraw.Draw(mask)
    if name == "circle":
        draw.ellipse((0.03 * _SIDE, 0.03 * _SIDE, 0.97 * _SIDE, 0.97 * _SIDE), fill=255)
    elif name in _POLYGONS:
        draw.polygon([(x * _SIDE, y * _SIDE) for x, y in _POLYGONS[name]], fill=255)
    else:
        return None
    return mask.resize((128, 128), Image.Resampling.BOX)
