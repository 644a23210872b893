"""Draws backgrounds of any size: plain colours and a few sceneries, varied by a random generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from training.kinds import COLOURS

Pixels = np.ndarray  # float32 [height, width, 3], 0 to 255


def backdrop(name: str, width: int, height: int, noise: np.random.Generator) -> Image.Image:
    """Draws the background with this name, a key of COLOURS or SCENERY, in RGB."""
    pixels = _plain(COLOURS[name], width, height, noise) if name in COLOURS else _SCENERY[name](width, height, noise)
    if noise.random() < 0.3:
        pixels = pixels + noise.normal(0, noise.uniform(1, 6), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _colour(base: tuple[float, float, float], noise: np.random.Generator, by: int = 12) -> Pixels:
    return np.array(base, np.float32) + noise.integers(-by, by + 1, 3)


def _down(height: int) -> Pixels:
    return np.linspace(0, 1, height, dtype=np.float32)[:, None, None]


def _plain(base: tuple[int, int, int], width: int, height: int, noise: np.random.Generator) -> Pixels:
    shade = (_down(height) - 0.5) * noise.uniform(-16, 16)
    return np.broadcast_to(_colour(base, noise, 9) + shade, (height, width, 3)).copy()


def clouds(width: int, height: int, noise: np.random.Generator, grains: int) -> Pixels:
    """Smooth random brightness, about `grains` patches wide: float32 [height, width, 1], values 0 to 1."""
    small = noise.random((max(2, grains * height // max(width, 1) + 1), grains + 1)).astype(np.float32)
    image = Image.fromarray((small * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)[:, :, None] / 255


def _sky_and_ground(
    width: int, height: int, noise: np.random.Generator, sky: tuple[int, int, int], ground: tuple[int, int, int]
) -> Pixels:
    horizon = int(height * noise.uniform(0.3, 0.55))
    pixels = np.empty((height, width, 3), np.float32)
    pixels[:horizon] = _colour(sky, noise) + 25 * _down(max(horizon, 1))[:horizon]
    pixels[horizon:] = _colour(ground, noise) - 18 * _down(height - horizon)
    return pixels


def _meadow(width: int, height: int, noise: np.random.Generator) -> Pixels:
    pixels = _sky_and_ground(width, height, noise, (135, 195, 245), (95, 175, 70))
    return pixels + 18 * (clouds(width, height, noise, 14) - 0.5)


def _beach(width: int, height: int, noise: np.random.Generator) -> Pixels:
    pixels = _sky_and_ground(width, height, noise, (120, 200, 240), (238, 214, 160))
    return pixels + 12 * (clouds(width, height, noise, 20) - 0.5)


def _night(width: int, height: int, noise: np.random.Generator) -> Pixels:
    pixels = np.broadcast_to(_colour((15, 18, 60), noise, 8) + 25 * _down(height), (height, width, 3)).copy()
    side = max(1, round(max(width, height) / 160))
    for _ in range(noise.integers(20, 45)):
        y, x = noise.integers(height), noise.integers(width)
        pixels[y : y + side, x : x + side] = noise.uniform(170, 250)
    return pixels


def _snow(width: int, height: int, noise: np.random.Generator) -> Pixels:
    pixels = _sky_and_ground(width, height, noise, (185, 208, 232), (242, 246, 252))
    side = max(1, round(max(width, height) / 110))
    for _ in range(noise.integers(30, 60)):
        y, x = noise.integers(height), noise.integers(width)
        pixels[y : y + side, x : x + side] = 255
    return pixels


def _table(width: int, height: int, noise: np.random.Generator) -> Pixels:
    pixels = np.broadcast_to(_colour((172, 122, 72), noise), (height, width, 3)).copy()
    grain = clouds(max(2, width // 12), height, noise, 3)
    rows = np.asarray(Image.fromarray((grain[:, :, 0] * 255).astype(np.uint8)).resize((width, height)), np.float32)[:, :, None]
    pixels += 26 * (rows / 255 - 0.5) + 14 * np.sin(_down(height) * noise.uniform(40, 90) + rows / 60)
    for plank in range(1, 4):
        pixels[int(height * plank / 4) : int(height * plank / 4) + max(1, height // 110)] *= 0.6
    return pixels


def _wall(width: int, height: int, noise: np.random.Generator) -> Pixels:
    rows = int(noise.integers(7, 12))
    high = max(4, height // rows)
    wide = high * 2
    y, x = np.mgrid[:height, :width]
    shifted = x + (y // high % 2) * high
    shades = noise.uniform(-18, 18, (height // high + 2, width // wide + 3)).astype(np.float32)
    pixels = _colour((168, 78, 60), noise) + shades[y // high, shifted // wide][:, :, None]
    joint = max(1, high // 9)
    mortar = (y % high < joint) | (shifted % wide < joint)
    pixels[mortar] = _colour((205, 196, 186), noise, 6)
    return pixels


def _sea(width: int, height: int, noise: np.random.Generator) -> Pixels:
    pixels = _sky_and_ground(width, height, noise, (175, 218, 245), (35, 110, 180))
    y, x = np.mgrid[:height, :width]
    waves = np.sin(y / height * noise.uniform(50, 80) + 1.5 * np.sin(x / width * noise.uniform(15, 30)))
    below = (y > height * 0.5)[:, :, None]
    return pixels + np.where(below, 14 * waves[:, :, None], 0)


def _blurry(width: int, height: int, noise: np.random.Generator) -> Pixels:
    """Blurred patches of a few muted colours, like the out-of-focus background of a photograph."""
    pixels = np.broadcast_to(_colour((140, 140, 135), noise, 30), (height, width, 3)).copy()
    for _ in range(4):
        pixels += (clouds(width, height, noise, int(noise.integers(2, 6))) - 0.5) * noise.uniform(-90, 90, 3)
    return pixels


_SCENERY: dict[str, Callable[[int, int, np.random.Generator], Pixels]] = {
    "a green meadow": _meadow,
    "a sandy beach": _beach,
    "a night sky": _night,
    "snow": _snow,
    "a wooden table": _table,
    "a brick wall": _wall,
    "the sea": _sea,
    "a blurry background": _blurry,
}
