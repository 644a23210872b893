"""Draws the picture of a scene. All randomness comes from the scene's seed: the same scene gives the same picture."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from training.backdrops import backdrop
from training.drawings import ONE_COLOUR, DrawingBank
from training.figures import FIGURES
from training.foreign import foreign_picture
from training.kinds import BY_NAME, COLOURS, TEXT
from training.sampling_text import LINE_HEIGHT
from training.scenes import Scene, Split, Thing
from training.shapes import shape_mask

_NAMES = tuple(COLOURS)
_PALETTE = np.array(list(COLOURS.values()), np.float32)


def render(
    scene: Scene, bank: DrawingBank, size: tuple[int, int] | None = None, style: str = "", tinted: float = 0.0
) -> Image.Image:
    """Draws the scene in RGB.

    Args:
        size: Width and height in pixels; None for the scene's own size.
        style: Split or style of the drawings (DrawingBank.of); empty for the scene's split.
        tinted: Share of drawings whose colours are changed.
    """
    width, height = size or (scene.width, scene.height)
    noise = np.random.default_rng(scene.seed)
    if scene.foreign is not None:
        return foreign_picture(scene.foreign, width, height, noise, bank, scene.split)
    image = backdrop(scene.background, width, height, noise)
    for thing in scene.things:
        _paste(image, thing, bank, noise, style or scene.split, scene, tinted)
    return image.convert("L").convert("RGB") if scene.grey else image


def _paste(
    image: Image.Image, thing: Thing, bank: DrawingBank, noise: np.random.Generator, style: str, scene: Scene, tinted: float
) -> None:
    left, top, right, bottom = thing.box
    x, y = round(left * image.width), round(top * image.height)
    wide, high = max(3, round((right - left) * image.width)), max(3, round((bottom - top) * image.height))
    if thing.kind == TEXT:
        colour = _jitter(COLOURS[thing.colour] if thing.colour else _readable_on(image, thing), noise)
        layer = _text_layer(thing, wide, high, colour, bank, scene.split)
        image.paste(layer, (x + (wide - layer.width) // 2, y + (high - layer.height) // 2), layer)
        return
    if thing.kind in FIGURES:
        layer = FIGURES[thing.kind].draw(thing.text, wide, high, noise, lambda size: bank.font(thing.style, size, scene.split))
        image.paste(layer, (x, y), layer)
        return
    mask = shape_mask(thing.kind)
    if not thing.known:
        drawings = bank.unknown[scene.split][thing.kind]
        layer = drawings[thing.style % len(drawings)]
        layer = layer if thing.look == "colours" else outline(layer)
    elif mask is not None:
        layer = Image.new(
            "RGBA", mask.size, _jitter(COLOURS[thing.colour] if thing.colour else _readable_on(image, thing), noise)
        )
        layer.putalpha(mask)
    elif thing.look == "one colour" and bank.has_one_colour(thing.kind):
        drawings = bank.of(thing.kind, ONE_COLOUR)
        layer = Image.new("RGBA", drawings[0].size, _contrasting(image, thing, noise))
        layer.putalpha(drawings[thing.style % len(drawings)].getchannel("A"))
    else:
        drawings = bank.of(thing.kind, style)
        layer = drawings[thing.style % len(drawings)]
        layer = layer if thing.look == "colours" else outline(layer)
    if thing.mirrored:
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if thing.angle:
        layer = layer.rotate(thing.angle, Image.Resampling.BILINEAR)
    layer = layer.resize((wide, high), Image.Resampling.BILINEAR)
    if tinted and thing.look == "colours" and _may_be_tinted(thing) and noise.random() < tinted:
        layer = _tinted(layer, noise)
    image.paste(layer, (x, y), layer)


def _tinted(layer: Image.Image, noise: np.random.Generator) -> Image.Image:
    """The drawing with randomly changed hue, saturation and brightness."""
    pixels = np.asarray(layer, np.float32)
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    luma = colours @ np.array([0.299, 0.587, 0.114], np.float32)
    angle = noise.normal(0, 0.4)
    turned = np.cos(angle) * (colours - luma[..., None]) + np.sin(angle) * np.roll(colours - luma[..., None], 1, axis=-1)
    result = (luma[..., None] + noise.uniform(0, 1.3) * turned) * noise.uniform(0.8, 1.2)
    return Image.fromarray(np.concatenate([result.clip(0, 255), alpha], -1).astype(np.uint8), "RGBA")


def _may_be_tinted(thing: Thing) -> bool:
    """Whether the thing stays what it is in other colours. A flag would not."""
    return thing.kind in BY_NAME and BY_NAME[thing.kind].category not in ("flag", "shape", "figure")


def outline(layer: Image.Image) -> Image.Image:
    """A drawing as dark lines on white: the borders between its colours, and its own border."""
    alpha = layer.getchannel("A")
    flat = Image.new("RGB", layer.size, (255, 255, 255))
    flat.paste(layer, (0, 0), alpha)
    edges = ImageChops.lighter(_edges(alpha), ImageChops.lighter(*map(_edges, flat.split()[:2])))
    edges = ImageChops.lighter(edges, _edges(flat.getchannel("B")))
    lines = edges.point([min(255, max(0, (value - 24) * 6)) for value in range(256)]).filter(ImageFilter.MaxFilter(3))
    drawn = Image.composite(Image.new("RGB", layer.size, (25, 25, 25)), Image.new("RGB", layer.size, (252, 252, 252)), lines)
    drawn.putalpha(ImageChops.lighter(alpha, lines))
    return drawn


def _edges(channel: Image.Image) -> Image.Image:
    """How much each pixel differs from its right and its lower neighbour."""
    across = ImageChops.difference(channel, ImageChops.offset(channel, 1, 0))
    return ImageChops.lighter(across, ImageChops.difference(channel, ImageChops.offset(channel, 0, 1)))


def _contrasting(image: Image.Image, thing: Thing, noise: np.random.Generator) -> tuple[int, int, int]:
    """A colour that is far from the picture behind the thing."""
    behind = _behind(image, thing)
    far = np.abs(_PALETTE - behind).sum(-1) > 220
    chosen = _PALETTE[far][int(noise.integers(far.sum()))] if far.any() else 255 - behind
    return _jitter((int(chosen[0]), int(chosen[1]), int(chosen[2])), noise)


@dataclass(frozen=True)
class FittedText:
    """A text at the largest size at which it fits into its box.

    Attributes:
        lines: The text and the bounding box (left, top, right, bottom) of each line, in pixels of the layer.
        width: Of the layer, in pixels.
        height: Of the layer, in pixels.
    """

    font: ImageFont.FreeTypeFont
    lines: tuple[tuple[str, tuple[int, int, int, int]], ...]
    width: int
    height: int


def fit_text(thing: Thing, wide: int, high: int, bank: DrawingBank, split: Split) -> FittedText:
    """Fits the lines of a text, centred, into wide × high pixels."""
    texts = thing.text.split("\n")
    font = bank.font(thing.style, 40, split)
    boxes = [font.getbbox(text) for text in texts]
    widest, letter = max(box[2] - box[0] for box in boxes), max(box[3] - box[1] for box in boxes)
    rows = 1 + (len(texts) - 1) * LINE_HEIGHT
    font = bank.font(thing.style, int(40 * min(wide / widest, high / (letter * rows))), split)
    boxes = [tuple(round(v) for v in font.getbbox(text)) for text in texts]
    width = max(1, *(box[2] - box[0] for box in boxes))
    top = min(box[1] for box in boxes)
    step = round((max(box[3] for box in boxes) - top) * LINE_HEIGHT) if len(texts) > 1 else 0
    lines = []
    for index, (text, (left, upper, right, lower)) in enumerate(zip(texts, boxes, strict=True)):
        x, y = (width - (right - left)) // 2, index * step
        lines.append((text, (x, y + upper - top, x + right - left, y + lower - top)))
    return FittedText(font, tuple(lines), width, max(1, max(box[3] for _, box in lines)))


def _text_layer(thing: Thing, wide: int, high: int, colour: tuple[int, int, int], bank: DrawingBank, split: Split) -> Image.Image:
    fitted = fit_text(thing, wide, high, bank, split)
    layer = Image.new("RGBA", (fitted.width, fitted.height), (*colour, 0))
    draw = ImageDraw.Draw(layer)
    for text, (left, top, _, _) in fitted.lines:
        own = fitted.font.getbbox(text)
        draw.text((left - round(own[0]), top - round(own[1])), text, font=fitted.font, fill=(*colour, 255))
    return layer


def _jitter(colour: tuple[int, int, int], noise: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(np.clip(value + noise.integers(-14, 15), 0, 255)) for value in colour)
    return red, green, blue


def _readable_on(image: Image.Image, thing: Thing) -> tuple[int, int, int]:
    """Black or white, whichever contrasts with the picture behind the thing. For things without a colour, in grey pictures."""
    return (20, 20, 20) if _behind(image, thing).mean() > 128 else (235, 235, 235)


def _behind(image: Image.Image, thing: Thing) -> np.ndarray:
    """The mean colour of the picture behind the thing."""
    box = [round(f * side) for f, side in zip(thing.box, (image.width, image.height) * 2, strict=True)]
    return np.asarray(image.crop((box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1))), np.float32).mean((0, 1))


def seen_colours(image: Image.Image) -> tuple[str, ...]:
    """Names of the one or two colours that cover most of the picture, the most frequent first."""
    pixels = np.asarray(image.resize((24, 24), Image.Resampling.BOX), np.float32).reshape(-1, 1, 3)
    nearest = ((pixels - _PALETTE) ** 2).sum(-1).argmin(-1)
    counts = np.bincount(nearest, minlength=len(_NAMES)) / len(nearest)
    first, second = counts.argsort()[::-1][:2]
    return (_NAMES[first], _NAMES[second]) if counts[second] >= 0.25 else (_NAMES[first],)


def disturb(image: Image.Image, rng: random.Random) -> Image.Image:
    """Randomly adds blur, other brightness and contrast, noise, and JPEG artefacts, as augmentation."""
    if rng.random() < 0.12:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    if rng.random() < 0.3:
        pixels = np.asarray(image, np.float32)
        pixels = (pixels - 128) * rng.uniform(0.85, 1.15) + 128 + rng.uniform(-15, 15)
        if rng.random() < 0.4:
            pixels = pixels + np.random.default_rng(rng.randrange(2**31)).normal(0, rng.uniform(1, 8), pixels.shape)
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=rng.randint(30, 90))
        image = Image.open(file).convert("RGB")
    return image
