"""Metadata of any size is skipped: it costs no time, and the picture is shown as it would be without."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from mllama_demo.images.loading import load_image
from mllama_demo.images.metadata import without_metadata
from tests.support.image_files import ORIENTATION, corners, encode

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(*chunks: bytes) -> bytes:
    data = encode(corners())
    return data[:33] + b"".join(chunks) + data[33:]  # behind the header


def gif_with(extensions: bytes, image: Image.Image | None = None, **options: object) -> bytes:
    data = encode(image or corners().convert("P", palette=Image.Palette.ADAPTIVE), "GIF", **options)
    with Image.open(io.BytesIO(data)) as opened:
        palette = 3 * len(opened.getpalette() or []) // 3
    assert data[13 + palette : 14 + palette] in (b"!", b",")
    return data[: 13 + palette] + extensions + data[13 + palette :]


def jpeg_with(*segments: bytes, **options: object) -> bytes:
    data = encode(corners(), "JPEG", quality=95, **options)
    return data[:2] + b"".join(segments) + data[2:]


def segment(code: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def big_text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", '{"node":1}' * 200_000, zip=True)
    return info


LARGE = {
    "a GIF comment of small blocks": gif_with(b"\x21\xfe" + b"\x01A" * 500_000 + b"\0"),
    "a GIF of many comments": gif_with(b"\x21\xfe\x01A\0" * 100_000),
    "a GIF extension of an application": gif_with(b"\x21\xff\x0bXMP DataXMP" + b"\xff" + b"x" * 255 + b"\0"),
    "a PNG with a compressed text of megabytes": encode(corners(), pnginfo=big_text()),
    "a PNG with a compressed text of gigabytes": png_with(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
    "a PNG with many texts": png_with(*[chunk(b"tEXt", b"a\0b")] * 50_000),
    "a PNG with an XMP text of megabytes": png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bytes(2_000_000))),
    "a PNG with a compressed XMP text of megabytes": png_with(
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2_000_000)))
    ),
    "a PNG with a broken profile": png_with(chunk(b"iCCP", b"a\0\0broken")),
    "a PNG with a profile of megabytes": png_with(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(5_000_000)))),
    "a JPEG with many comments": jpeg_with(*[segment(0xFE, b"x" * 60_000)] * 50),
    "a JPEG with a profile in many segments": jpeg_with(*[segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000))] * 50),
    "a JPEG with many EXIF segments": jpeg_with(*[segment(0xE1, b"Exif\0\0" + bytes(60_000))] * 50),
}


@pytest.mark.parametrize("what", LARGE)
def test_large_metadata_is_skipped_and_the_picture_is_shown(what):
    data = LARGE[what]
    assert len(without_metadata(data)) < 70_000
    image = load_image(data)
    assert image.pixels.size == (40, 20)
    assert image.pixels.getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=12)
    assert image.data == data, "the file itself is kept as it is"


def test_the_chunks_of_a_png_with_too_many_are_joined():
    pixels = zlib.compress(bytes(200 * (1 + 200 * 3)), 0)
    parts = [chunk(b"IDAT", pixels[i : i + 4]) for i in range(0, len(pixels), 4)]
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 200, 200, 8, 2, 0, 0, 0)) + b"".join(parts)
    assert len(parts) > 10_000
    assert without_metadata(data + chunk(b"IEND", b"")).count(b"IDAT") == 1
    assert load_image(data + chunk(b"IEND", b"")).pixels.size == (200, 200)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "BMP", "GIF"])
def test_a_file_without_metadata_is_not_changed(format):
    data = encode(corners(), format)
    found = without_metadata(data)
    assert found is data or format == "GIF"
    with Image.open(io.BytesIO(found)) as image, Image.open(io.BytesIO(data)) as original:
        assert image.convert("RGB").tobytes() == original.convert("RGB").tobytes()


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))),
        encode(corners(), "JPEG", exif=(lambda exif: exif.__setitem__(ORIENTATION, 6) or exif)(Image.Exif())),
        encode(corners(), "PNG", exif=(lambda exif: exif.__setitem__(ORIENTATION, 6) or exif)(Image.Exif())),
    ],
    ids=["JPEG XMP", "PNG XMP", "PNG compressed XMP", "JPEG EXIF", "PNG EXIF"],
)
def test_the_orientation_is_kept(data):
    assert load_image(data).pixels.size == (20, 40)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "code"), [(3, "H"), (4, "I"), (1, "B")])
def test_the_orientation_is_found_in_any_order_of_bytes_and_among_other_entries(order, kind, code):
    others = [struct.pack(f"{order}HHII", tag, 4, 1, 5) for tag in (0x0100, 0x8769)]
    entry = struct.pack(f"{order}HHI", ORIENTATION, kind, 1) + struct.pack(order + code, 6).ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 3)
    exif = head + others[0] + entry + others[1] + bytes(4)
    assert load_image(png_with(chunk(b"eXIf", exif))).pixels.size == (20, 40)
    assert load_image(jpeg_with(segment(0xE1, b"Exif\0\0" + exif))).pixels.size == (20, 40)


def test_the_colours_of_a_jpeg_are_kept():
    """Adobe's segment tells whether the channels of a JPEG are CMYK, and whether they are inverted."""
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    assert b"Adobe" in without_metadata(jpeg_with() and data[:2] + segment(0xFE, b"x") + data[2:])
    assert load_image(data[:2] + segment(0xFE, b"x") + data[2:]).pixels.getpixel((8, 8)) == pytest.approx((255, 0, 0), abs=12)


def test_the_transparent_colour_of_a_gif_and_its_first_frame_are_kept():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (4, 0, 8, 8))
    data = encode(image, "GIF", transparency=1, save_all=True, append_images=[Image.new("P", (8, 8))] * 3, comment=b"x")
    assert without_metadata(data).count(b"\x21\xf9\x04") == 1
    pixels = load_image(data).pixels
    assert (pixels.getpixel((0, 0)), pixels.getpixel((7, 7))) == ((255, 0, 0), (255, 255, 255))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF"])
def test_a_file_that_breaks_off_anywhere_is_no_surprise(format):
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    options = {"comment": b"hello"} if format == "GIF" else {"exif": exif, "pnginfo": big_text()}
    data = encode(corners(), format, **options)
    for length in range(min(len(data), 400)):
        assert isinstance(without_metadata(data[:length]), bytes)


def test_a_tiff_with_ycbcr_pixels_is_read_compressed_or_not():
    for compression in ("raw", "jpeg", "tiff_lzw"):
        data = encode(Image.new("RGB", (64, 64), (200, 30, 40)).convert("YCbCr"), "TIFF", compression=compression)
        assert load_image(data).pixels.getpixel((9, 9)) == pytest.approx((200, 30, 40), abs=3), compression
