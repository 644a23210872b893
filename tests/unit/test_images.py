"""What load_image, preview and from_data_url accept, make of it, and refuse."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
from PIL import Image

from mllama_demo.errors import ImageError
from mllama_demo.images import DEFAULT_LIMITS, ImageLimits, clean_name, from_data_url, load_image, preview, size_text

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
ORIENTATION = 0x0112
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore::UserWarning:PIL")


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
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


def quarters(image: Image.Image) -> list[Any]:
    """The colours in the middle of the quarters: top left, top right, bottom left, bottom right."""
    w, h = image.size
    return [image.getpixel((x, y)) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]


def close(found: Any, expected: Any, tolerance: int = 12) -> bool:
    return bool(np.abs(np.asarray(found, dtype=int) - np.asarray(expected, dtype=int)).max() <= tolerance)


def refused(data: bytes, name: str = "holiday.png", limits: ImageLimits = DEFAULT_LIMITS) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(data, name, limits)
    message = str(caught.value)
    assert f'"{clean_name(name)}"' in message
    reason, _, allowed = message.partition("; ")
    assert len(reason) > 20
    assert allowed.endswith(".")
    assert "\n" not in message
    return message


# --- what is accepted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_each_allowed_format_gives_upright_rgb_pixels_and_the_facts_of_its_file(format):
    data = encode(corners(), format)
    image = load_image(data, "corners", ImageLimits())
    assert (image.format, image.name, image.data) == (format, "corners", data)
    assert image.digest == hashlib.sha256(data).hexdigest()
    assert (image.width, image.height, image.pixels.mode) == (40, 20, "RGB")
    assert close(quarters(image.pixels), [RED, GREEN, BLUE, WHITE], 40)


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
    assert load_image(encode(corners())).pixels.size == (40, 20)


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


# --- what is refused -----------------------------------------------------------------------------------------------------


def test_an_empty_file_is_refused():
    assert "empty" in refused(b"")


def test_a_file_above_the_byte_limit_is_refused_and_one_at_the_limit_is_not():
    data = encode(corners())
    load_image(data, limits=ImageLimits(max_bytes=len(data)))
    message = refused(data, limits=ImageLimits(max_bytes=len(data) - 1))
    assert "too large" in message
    assert f"at most {len(data) - 1} bytes" in message


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims its size and then holds no pixels: whoever decodes it says damaged, not too many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7072, 12_000, 60_000])  # above our limit; where Pillow warns; where Pillow refuses
def test_too_many_pixels_are_refused_from_the_header_alone(side):
    message = refused(png_header(side, side))
    assert "too many pixels" in message
    assert "50,000,000" in message


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_warning_of_pillow_turned_into_an_error_is_still_an_image_error():
    assert "too many pixels" in refused(png_header(12_000, 12_000))


def test_the_pixel_limit_is_inclusive():
    data = encode(corners())
    load_image(data, limits=ImageLimits(max_pixels=800))
    assert "40 × 20 = 800" in refused(data, limits=ImageLimits(max_pixels=799))


@pytest.mark.parametrize("size", [(61, 2), (2, 61)])
def test_an_image_too_long_and_narrow_is_refused(size):
    assert "30 times" in refused(encode(Image.new("RGB", size)))


def test_thirty_to_one_is_just_allowed():
    assert load_image(encode(Image.new("RGB", (60, 2)))).width == 60


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_costs_hours():
    data = encode(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    assert load_image(data).width == 64
    assert load_image(data[:-2] + data[last:-2] * 50 + data[-2:]).width == 64
    assert "100 scans" in refused(data[:-2] + data[last:-2] * 100 + data[-2:])


def zip_file() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "hello")
    return out.getvalue()


HOSTILE = {
    "web page": b"<!DOCTYPE html><html><svg></svg><body>hi</body></html>",
    "SVG": b'<?xml version="1.0"?>\n<!-- drawn by hand -->\n<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>',
    "PDF": b"%PDF-1.7\n" + bytes(100),
    "ZIP": zip_file(),
    "gzip": b"\x1f\x8b\x08\0" + bytes(40),
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(40),
    "AVIF": b"\0\0\0\x18ftypavif\0\0\0\0" + bytes(40),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_another_kind_of_file_is_refused_by_what_it_is(what):
    assert f"looks like a{'n' if what[0] in 'SHA' else ''} {what}" in refused(HOSTILE[what])


@pytest.mark.parametrize(
    "data", [b"hello", b"\0" * 5000, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"RIFF"]
)
def test_text_and_bare_signatures_are_refused(data):
    refused(data)


def test_formats_that_pillow_could_read_but_that_are_not_listed_are_refused():
    for format in ("PPM", "ICO", "TGA", "PCX", "JPEG2000", "EPS"):
        assert "not an image" in refused(encode(corners(), format)), format


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_refused_wherever_it_breaks_off(format):
    noise = Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(64 * 64 * 3))
    data = encode(noise, format)
    for length in (1, 10, 30, len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        refused(data[:length])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_flipped_bytes_give_an_image_or_an_image_error_and_nothing_else(format):
    chance = random.Random(format)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    original = encode(corners(), format, **({} if format in ("GIF", "BMP") else {"exif": exif}))
    for _ in range(300):
        data = bytearray(original)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with contextlib.suppress(ImageError):
            assert load_image(bytes(data)).pixels.mode == "RGB"


@pytest.mark.parametrize("error", [MemoryError, RecursionError, KeyError("x"), struct.error("x"), EOFError(), AssertionError()])
def test_whatever_the_decoder_raises_becomes_an_image_error(monkeypatch, error):
    def fail(self):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    refused(encode(corners()))


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
        ("x" * 10_000, "x" * 100),
    ],
)
def test_names_become_one_short_printable_line(name, clean):
    assert clean_name(name) == clean
    assert load_image(encode(corners()), name).name == clean


def test_byte_counts_read_well():
    assert [size_text(n) for n in (12, 1536, 20 * 2**20)] == ["12 bytes", "1.5 KiB", "20 MiB"]


# --- preview -------------------------------------------------------------------------------------------------------------


def test_a_preview_carries_none_of_the_metadata():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010E] = "SECRET PLACE"
    exif.get_ifd(0x8825)[1] = "N"
    data = encode(corners(), "JPEG", exif=exif, icc_profile=b"SECRET PROFILE", comment=b"SECRET COMMENT", xmp=b"SECRET XMP")
    assert data.count(b"SECRET") == 4
    image = load_image(data)
    assert image.pixels.info == {}
    file = preview(image)
    assert b"SECRET" not in file
    with Image.open(io.BytesIO(file)) as shown:
        assert not dict(shown.getexif())
        assert not {"exif", "xmp", "icc_profile", "comment"} & set(shown.info)
        assert shown.size == image.pixels.size == (20, 40)


@pytest.mark.parametrize(("size", "shown"), [((3000, 1500), (1024, 512)), ((30, 900), (30, 900)), ((200, 5900), (35, 1024))])
def test_a_preview_is_shrunk_to_its_longest_side_and_never_enlarged(size, shown):
    with Image.open(io.BytesIO(preview(load_image(encode(Image.new("RGB", size)))))) as image:
        assert image.size == shown


def test_a_preview_of_the_narrowest_image_still_has_pixels():
    with Image.open(io.BytesIO(preview(load_image(encode(Image.new("RGB", (60, 2)))), max_side=4))) as image:
        assert image.size == (4, 1)


# --- data: URLs ----------------------------------------------------------------------------------------------------------


def data_url(data: bytes, media: str = "image/png;base64") -> str:
    return f"data:{media},{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("media", ["image/png;base64", "IMAGE/PNG;BASE64", "image/png;charset=utf-8;base64", "image/jpeg;base64"])
def test_a_base64_data_url_is_decoded_and_its_content_decides_the_format(media):
    image = from_data_url(data_url(encode(corners()), media), "pasted")
    assert (image.format, image.name, image.data) == ("PNG", "pasted", encode(corners()))


def test_percent_encoding_is_decoded_with_and_without_base64():
    data = encode(corners())
    assert from_data_url("data:image/png," + quote_from_bytes(data)).data == data
    assert from_data_url("data:image/png;base64," + quote_from_bytes(base64.b64encode(data), safe="")).data == data


def test_line_breaks_and_missing_padding_in_base64_are_forgiven():
    data = encode(corners()) + b"x" * (2 - len(encode(corners())) % 3)
    text = base64.encodebytes(data).decode()
    assert "=" in text
    assert from_data_url("data:image/png;base64," + text).data == data
    assert from_data_url("DATA:image/png;base64," + text.replace("=", "")).data == data


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:image/png;base64,@@@@", "base64"),
        ("data:image/png;base64,QQQQQ", "base64"),
        ("data:image/png;base64,QQ==QQ", "base64"),
        ("data:image/png;base64,Qé==", "base64"),
        ("data:image/png;base64,\ud800", "base64"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png,", "empty"),
        ("data:image/png,\ud800", "not an image"),
        ("data:image/png;base64", "not a proper data: URL"),
        ("https://example.com/a,b", "not a proper data: URL"),
        ("", "not a proper data: URL"),
        ("data:,hello", "text/plain"),
        ("data:;base64,QQ==", "text/plain"),
        ("data:text/html;base64,QQ==", "text/html"),
        ("data:application/pdf;base64,QQ==", "application/pdf"),
        ("data:image/svg+xml,<svg></svg>", "SVG"),
        ("data:" + "image/png;" * 1000 + "base64,QQ==", "not a proper data: URL"),
    ],
)
def test_a_bad_data_url_is_refused_with_its_reason(url, reason):
    with pytest.raises(ImageError, match=reason):
        from_data_url(url)


def test_a_data_url_too_large_is_refused_before_it_is_decoded(monkeypatch):
    data = encode(corners())
    limits = ImageLimits(max_bytes=len(data))
    assert from_data_url(data_url(data), limits=limits).data == data

    def fail(*_, **__):
        raise AssertionError("decoded all the same")

    monkeypatch.setattr("mllama_demo.images.base64.b64decode", fail)
    with pytest.raises(ImageError, match="too large"):
        from_data_url(data_url(data + bytes(10)), limits=limits)
    monkeypatch.setattr("mllama_demo.images.unquote_to_bytes", fail)
    with pytest.raises(ImageError, match="too large"):
        from_data_url("data:image/png," + "%00" * 4 * len(data) + "%00" * 1000, limits=limits)


def test_a_percent_encoded_data_url_obeys_the_byte_limit():
    data = encode(corners())
    with pytest.raises(ImageError, match="too large"):
        from_data_url("data:image/png," + quote_from_bytes(data), limits=ImageLimits(max_bytes=len(data) - 1))


def test_images_does_not_pull_in_torch_or_the_network():
    code = "import sys, mllama_demo.images; print([m for m in ('torch', 'requests', 'gradio', 'urllib3') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
