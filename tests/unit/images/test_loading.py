"""Every allowed image becomes upright RGB pixels with the facts of its file."""

from __future__ import annotations

import hashlib
import importlib.util
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from mllama_demo.errors import ImageError
from mllama_demo.images.decoding import FORMATS, ImageFileReader
from mllama_demo.images.loading import ImageLimits, clean_name, format_names, load_image, size_text
from mllama_demo.images.worker_pool import OpenImage
from tests.support.image_files import BLACK, BLUE, GREEN, ORIENTATION, RED, WHITE, corners, encode

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore::UserWarning:PIL")


def quarters(image: Image.Image) -> list[Any]:
    """The colours in the middle of the quarters: top left, top right, bottom left, bottom right."""
    w, h = image.size
    return [image.getpixel((x, y)) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]


def close(found: Any, expected: Any, tolerance: int = 12) -> bool:
    return bool(np.abs(np.asarray(found, dtype=int) - np.asarray(expected, dtype=int)).max() <= tolerance)


# --- what is accepted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_each_allowed_format_gives_upright_rgb_pixels_and_the_facts_of_its_file(format):
    data = encode(corners(), format)
    image = load_image(data, "corners", ImageLimits())
    assert (image.format, image.name, image.data) == (format, "corners", data)
    assert image.digest == hashlib.sha256(data).hexdigest()
    assert (image.width, image.height, image.pixels.mode) == (40, 20, "RGB")
    assert close(quarters(image.pixels), [RED, GREEN, BLUE, WHITE], 40)


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_phone_photo_is_upright_and_checked_before_it_is_decoded(format, orientation, monkeypatch):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(turned(orientation).resize((80, 40) if orientation == 1 else (40, 80)), format, exif=exif.tobytes())
    image = load_image(data)
    assert (image.width, image.height) == (80, 40)
    assert close(quarters(image.pixels), [RED, GREEN, BLUE, WHITE], 40)
    monkeypatch.setattr(OpenImage, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"= 3,200"):
        load_image(data, limits=ImageLimits(max_pixels=3199))


def test_the_formats_that_are_named_are_those_that_can_be_read(monkeypatch):
    assert format_names() == "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF and HEIC"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(features, "check", lambda name: False)
    assert format_names.__wrapped__() == "PNG, JPEG, WebP, GIF, BMP and TIFF"


def test_two_loads_of_one_file_are_different_images_with_one_digest():
    data = encode(corners())
    first, second = load_image(data), load_image(data)
    assert first != second
    assert first.digest == second.digest


def turned(orientation: int) -> Image.Image:
    """How a camera held that way stores the corners."""
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    return corners() if inverse is None else corners().transpose(inverse)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 95}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_exif_orientation_is_applied(format, options, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = load_image(encode(turned(orientation), format, exif=exif, **options))
    assert image.pixels.size == (40, 20)
    assert close(quarters(image.pixels), [RED, GREEN, BLUE, WHITE], 40)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03", b"Exif\0\0"])
def test_broken_exif_does_not_spoil_a_good_image(exif):
    assert load_image(encode(corners(), "JPEG", exif=exif)).pixels.size == (40, 20)


def test_exif_that_pillow_cannot_even_parse_does_not_spoil_a_good_image(monkeypatch):
    def fail(self):
        raise struct.error("unpack requires a buffer of 2 bytes")

    monkeypatch.setattr("PIL.Image.Image.getexif", fail)
    assert ImageFileReader(encode(corners())).decode().size == (40, 20)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_outside_1_to_8_is_ignored(value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    assert load_image(encode(corners(), "JPEG", exif=exif)).pixels.size == (40, 20)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_on_white(format):
    image = Image.new("RGBA", (40, 20), (*RED, 255))
    image.paste((0, 0, 0, 0), (20, 0, 40, 10))
    image.paste((0, 0, 0, 128), (0, 10, 20, 20))
    options = {"lossless": True} if format == "WEBP" else {}
    found = quarters(load_image(encode(image, format, **options)).pixels)
    assert close(found, [RED, WHITE, (127, 127, 127), RED], 1)


def test_gray_with_alpha_is_laid_on_white():
    image = Image.new("LA", (8, 8), (0, 255))
    image.paste((0, 64), (4, 0, 8, 4))
    found = quarters(load_image(encode(image)).pixels)
    assert close(found, [BLACK, (191, 191, 191), BLACK, BLACK], 1)


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_a_palette_with_transparency_is_laid_on_white(transparency):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (4, 0, 8, 8))
    assert quarters(load_image(encode(image, transparency=transparency)).pixels) == [RED, WHITE, RED, WHITE]


def test_a_palette_without_transparency_keeps_its_colours():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (4, 0, 8, 8))
    assert quarters(load_image(encode(image)).pixels) == [RED, BLUE, RED, BLUE]


@pytest.mark.parametrize(("mode", "colour", "transparency"), [("RGB", RED, RED), ("L", 7, 7)])
def test_a_colour_declared_transparent_turns_white(mode, colour, transparency):
    image = Image.new(mode, (8, 8), colour)
    assert quarters(load_image(encode(image, transparency=transparency)).pixels) == [WHITE] * 4


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb_and_is_not_inverted(format):
    image = load_image(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), format))
    assert close(image.pixels.getpixel((8, 8)), RED)


def test_one_bit_and_eight_bit_gray_become_rgb():
    half = Image.new("1", (8, 8), 0)
    half.paste(1, (4, 0, 8, 8))
    assert quarters(load_image(encode(half)).pixels) == [BLACK, WHITE, BLACK, WHITE]
    assert load_image(encode(Image.new("L", (8, 8), 100))).pixels.getpixel((0, 0)) == (100, 100, 100)


def test_lab_colours_become_rgb():
    image = load_image(encode(Image.new("LAB", (8, 8), (255, 128, 128)), "TIFF"))
    assert close(image.pixels.getpixel((4, 4)), WHITE)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_and_not_clipped(format):
    ramp = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    pixels = load_image(encode(Image.fromarray(ramp), format)).pixels
    assert [pixels.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]


def test_a_dark_sixteen_bit_image_stays_dark():
    assert load_image(encode(Image.fromarray(np.full((4, 4), 200, dtype=np.uint16)))).pixels.getpixel((0, 0)) == (1, 1, 1)


def test_big_endian_sixteen_bit_gray_is_scaled_too():
    pixels = np.array([[0, 128 * 257, 65535]], dtype=">u2").tobytes()
    tags = {256: 3, 257: 1, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(pixels)}  # 273: where the pixels are
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = b"MM\0*" + struct.pack(">I", 8 + len(pixels)) + pixels + struct.pack(">H", len(tags)) + entries + bytes(4)
    image = load_image(data).pixels
    assert [image.getpixel((x, 0)) for x in range(3)] == [(v, v, v) for v in (0, 128, 255)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], dtype=np.int32), (0, 100, 255)),
        (np.array([[0, 128 * 257, 65535]], dtype=np.int32), (0, 128, 255)),
        (np.array([[-1000, 0, 1000]], dtype=np.int32), (0, 128, 255)),
        (np.array([[0.0, 0.2, 1.0]], dtype=np.float32), (0, 51, 255)),
        (np.array([[0.0, 51.0, 255.0]], dtype=np.float32), (0, 51, 255)),
        (np.array([[-1.0, 0.0, 4.0]], dtype=np.float32), (0, 51, 255)),
        (np.array([[np.nan, np.inf, 1.0]], dtype=np.float32), (0, 0, 255)),
        (np.array([[7e5, 7e5, 7e5]], dtype=np.float32), (0, 0, 0)),
    ],
)
def test_deep_gray_without_a_declared_white_is_scaled_by_its_range(values, expected):
    pixels = load_image(encode(Image.fromarray(values), "TIFF")).pixels
    assert [pixels.getpixel((x, 0)) for x in range(3)] == [(v, v, v) for v in expected]


def test_the_first_frame_of_an_animation_and_the_first_page_of_a_document_are_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, GREEN)]
    for format in ("GIF", "TIFF", "WEBP", "PNG"):
        options = {"lossless": True} if format == "WEBP" else {}
        image = load_image(encode(frames[0], format, save_all=True, append_images=frames[1:], **options))
        assert image.pixels.getpixel((4, 4)) == RED, format


def test_a_camera_file_holding_several_jpegs_is_a_jpeg():
    data = encode(corners(), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 20))], quality=95)
    image = load_image(data)
    assert image.format == "JPEG"
    assert close(quarters(image.pixels), [RED, GREEN, BLUE, WHITE], 40)


def test_many_threads_may_load_at_once():
    files = [encode(Image.new("RGB", (30, 30), (i, 0, 0)), format) for i in range(8) for format in ("PNG", "TIFF", "GIF")]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda data: load_image(data).pixels.getpixel((5, 5)), files * 4))
    assert found == [load_image(data).pixels.getpixel((5, 5)) for data in files] * 4


# --- names and sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("cat.png", "cat.png"),
        ("a\r\nb\x00c\x1b[31m", "a b c [31m"),
        ("photo\u202egnp.exe", "photo gnp.exe"),
        ("\ud800bad", "bad"),
        ("  \t ", "image"),
        ("", "image"),
        ("猫.jpg", "猫.jpg"),
        ("x" * 10_000, "x" * 80),
    ],
)
def test_names_become_one_short_printable_line(name, clean):
    assert clean_name(name) == clean
    assert load_image(encode(corners()), name).name == clean


def test_byte_counts_have_units():
    assert [size_text(n) for n in (12, 1536, 20 * 2**20)] == ["12 bytes", "1.5 KiB", "20 MiB"]
