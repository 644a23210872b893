"""Draws pictures of none of the known things: noise, textures, photographs, screens. The model learns to name nothing in them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from training.backdrops import clouds
from training.drawings import DrawingBank
from training.scenes import ForeignKind, Split


def foreign_picture(
    kind: ForeignKind, width: int, height: int, noise: np.random.Generator, bank: DrawingBank, split: Split
) -> Image.Image:
    """Draws a picture of the kind in RGB. A "photo" is a real or a synthetic one. split: of the fonts in a screen."""
    if kind == "noise":
        return _noise(width, height, noise)
    if kind == "texture":
        return _texture(width, height, noise)
    if kind == "screen":
        return _screen(width, height, noise, bank, split)
    return _photo(width, height, noise, bank) if noise.random() < 0.6 else _landscape(width, height, noise)


def _from_pixels(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _noise(width: int, height: int, noise: np.random.Generator) -> Image.Image:
    grain = int(noise.choice((1, 2, 4, 8)))
    shape = (max(2, height // grain), max(2, width // grain), 3 if noise.random() < 0.7 else 1)
    values = noise.uniform(0, 255, shape) if noise.random() < 0.5 else noise.normal(128, noise.uniform(25, 90), shape)
    image = _from_pixels(np.broadcast_to(values, (*shape[:2], 3)))
    return image.resize((width, height), Image.Resampling.NEAREST)


def _texture(width: int, height: int, noise: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[:height, :width].astype(np.float32) / max(width, height)
    one, two = noise.uniform(0, 255, (2, 3))
    pattern = noise.integers(5)
    if pattern == 0:  # stripes
        angle, many = noise.uniform(0, np.pi), noise.uniform(10, 90)
        share = np.sin((x * np.cos(angle) + y * np.sin(angle)) * many) > noise.uniform(-0.5, 0.5)
    elif pattern == 1:  # checks
        many = noise.uniform(4, 20)
        share = (np.floor(x * many) + np.floor(y * many)) % 2 > 0
    elif pattern == 2:  # cells
        points = noise.random((int(noise.integers(8, 40)), 2)).astype(np.float32)
        near = ((x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2).argmin(-1)
        return _from_pixels(noise.uniform(0, 255, (len(points), 3))[near])
    elif pattern == 3:  # marble
        share = (np.sin(12 * x + noise.uniform(3, 12) * _fractal(width, height, noise)[:, :, 0]) + 1) / 2
    else:  # waves in three colours
        waves = np.stack([np.sin(x * a + b * np.sin(y * c)) for a, b, c in noise.uniform(5, 50, (3, 3)) * (1, 0.1, 1)], -1)
        return _from_pixels(128 + 120 * waves)
    share = share.astype(np.float32)[:, :, None]
    return _from_pixels(one * share + two * (1 - share) + noise.normal(0, 6, (height, width, 1)))


def _fractal(width: int, height: int, noise: np.random.Generator, octaves: int = 5) -> np.ndarray:
    """Random brightness with the 1/f spectrum of natural pictures: float32 [height, width, 1]."""
    total = np.zeros((height, width, 1), np.float32)
    for octave in range(octaves):
        total += clouds(width, height, noise, 2 ** (octave + 1)) / 2**octave
    return total / 2


def _photo(width: int, height: int, noise: np.random.Generator, bank: DrawingBank) -> Image.Image:
    """A part of a real photograph with random brightness, contrast and colours."""
    photo = bank.photos[int(noise.integers(len(bank.photos)))]
    scale = noise.uniform(0.3, 1.0)
    wide = min(photo.width, max(16, int(scale * photo.width)))
    high = min(photo.height, max(16, int(wide * height / width)))
    left, top = noise.integers(photo.width - wide + 1), noise.integers(photo.height - high + 1)
    cut = photo.crop((int(left), int(top), int(left) + wide, int(top) + high)).resize((width, height), Image.Resampling.BILINEAR)
    if noise.random() < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        cut = enhance(cut).enhance(noise.uniform(0.6, 1.5))
    if noise.random() < 0.3:
        cut = _from_pixels(np.roll(np.asarray(cut), int(noise.integers(3)), axis=2))
    return cut


def _landscape(width: int, height: int, noise: np.random.Generator) -> Image.Image:
    """A synthetic photograph: light, layers, texture and soft blobs give the picture the statistics of a photograph."""
    pixels = noise.uniform(20, 220, 3) + (_fractal(width, height, noise) - 0.9) * noise.uniform(60, 260, 3)
    for _ in range(noise.integers(1, 4)):
        ridge = noise.uniform(0.2, 0.9) + 0.25 * (clouds(width, 2, noise, int(noise.integers(2, 9)))[0, :, 0] - 0.5)
        below = np.linspace(0, 1, height)[:, None] > ridge[None]
        layer = noise.uniform(10, 230, 3) + (_fractal(width, height, noise) - 0.9) * noise.uniform(40, 220, 3)
        pixels = np.where(below[:, :, None], layer, pixels)
    y, x = np.mgrid[:height, :width]
    for _ in range(noise.integers(0, 7)):
        cx, cy = noise.random(2) * (width, height)
        rx, ry = noise.uniform(0.04, 0.3, 2) * (width, height)
        inside = np.exp(-(np.hypot((x - cx) / rx, (y - cy) / ry) ** noise.uniform(2, 9)))[:, :, None]
        blob = noise.uniform(0, 255, 3) + (_fractal(width, height, noise, 4) - 0.9) * 120
        pixels = pixels * (1 - inside) + blob * inside
    light = 1 + noise.uniform(-0.4, 0.4) * (x / width - 0.5) + noise.uniform(-0.4, 0.4) * (y / height - 0.5)
    pixels = pixels * light[:, :, None] + noise.normal(0, noise.uniform(0, 12), pixels.shape)
    return _from_pixels(pixels).filter(ImageFilter.GaussianBlur(noise.uniform(0, 1.5)))


_WORDS = "File Edit View Report Total Revenue Status Open Pending User Settings 2024 Quarter Name Region Error Search".split()


def _screen(width: int, height: int, noise: np.random.Generator, bank: DrawingBank, split: Split) -> Image.Image:
    """A window, a page or a chart, with bars, boxes and lines of small text."""
    dark = noise.random() < 0.35
    ground = tuple(int(v) for v in (noise.integers(15, 60, 3) if dark else noise.integers(225, 256, 3)))
    ink = tuple(int(v) for v in (noise.integers(170, 250, 3) if dark else noise.integers(20, 110, 3)))
    image = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(image)

    def colour() -> tuple[int, ...]:
        return tuple(int(v) for v in noise.integers(30, 240, 3))

    def box(left: float, top: float, right: float, bottom: float, fill: tuple[int, ...]) -> None:
        draw.rectangle((left * width, top * height, max(left, right) * width, max(top, bottom) * height), fill=fill)

    if noise.random() < 0.7:
        box(0, 0, 1, noise.uniform(0.04, 0.12), colour())
    if noise.random() < 0.5:
        box(0, 0.1, noise.uniform(0.1, 0.3), 1, colour())
    if noise.random() < 0.5:
        base, bars = noise.uniform(0.7, 0.95), int(noise.integers(4, 12))
        tint = colour()
        for bar in range(bars):
            left = 0.3 + 0.6 * bar / bars
            box(left, base - noise.uniform(0.05, 0.5), left + 0.4 / bars, base, tint if noise.random() < 0.6 else colour())
    if noise.random() < 0.4:
        points = [(width * (0.1 + 0.08 * i), height * noise.uniform(0.2, 0.8)) for i in range(11)]
        draw.line(points, fill=colour(), width=max(1, width // 120))
    font = bank.font(int(noise.integers(100)), max(5, int(height * noise.uniform(0.025, 0.05))), split)
    step = noise.uniform(0.05, 0.1)
    for line in range(int(0.85 / step)):
        if noise.random() < 0.8:
            text = " ".join(noise.choice(_WORDS, int(noise.integers(2, 9))))
            draw.text((width * noise.uniform(0.03, 0.12), height * (0.12 + line * step)), text, font=font, fill=ink)
    return image
