"""What is no image, too large or hostile is refused with a sentence, as a file or as a data: URL."""

from __future__ import annotations

import base64
import contextlib
import io
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from urllib.parse import quote_from_bytes

import pytest
from PIL import Image

from mllama_demo.errors import ImageError
from mllama_demo.images.decoding import FORMATS, DecodingError, ImageFileReader
from mllama_demo.images.loading import DEFAULT_LIMITS, ImageLimits, clean_name, from_data_url, load_image
from tests.support.image_files import ORIENTATION, corners, encode

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore::UserWarning:PIL")


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
    "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
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


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_file_is_refused_wherever_it_breaks_off(format):
    noise = Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(64 * 64 * 3))
    data = encode(noise, format)
    for length in (1, 10, 30, len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        refused(data[:length])


@pytest.mark.parametrize("format", FORMATS)
def test_flipped_bytes_give_an_image_or_an_image_error_and_nothing_else(format):
    rng = random.Random(format)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    original = encode(corners(), format, **({} if format in ("GIF", "BMP") else {"exif": exif}))
    for _ in range(300):
        data = bytearray(original)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(ImageError):
            assert load_image(bytes(data)).pixels.mode == "RGB"


@pytest.mark.parametrize("error", [MemoryError, RecursionError, KeyError("x"), struct.error("x"), EOFError(), AssertionError()])
def test_whatever_the_decoder_raises_becomes_a_decoding_error(monkeypatch, error):
    def fail(self):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(DecodingError):
        ImageFileReader(encode(corners())).decode()


# --- data: URLs ----------------------------------------------------------------------------------------------------------


def data_url(data: bytes, media: str = "image/png;base64") -> str:
    return f"data:{media},{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("media", [";base64", "application/octet-stream;base64", "application/octet-stream;name=a;base64"])
def test_a_photo_whose_type_the_browser_does_not_know_is_read(media):
    assert from_data_url(data_url(encode(corners(), "HEIF"), media)).format == "HEIF"


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
        ("data:;base64,QQ==", "not an image"),
        ("data:application/octet-stream;base64,QQ==", "not an image"),
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

    monkeypatch.setattr("mllama_demo.images.loading.base64.b64decode", fail)
    with pytest.raises(ImageError, match="too large"):
        from_data_url(data_url(data + bytes(10)), limits=limits)
    monkeypatch.setattr("mllama_demo.images.loading.unquote_to_bytes", fail)
    with pytest.raises(ImageError, match="too large"):
        from_data_url("data:image/png," + "%00" * 4 * len(data) + "%00" * 1000, limits=limits)


def test_a_data_url_of_many_percent_signs_is_refused_before_it_is_decoded(monkeypatch):
    """20 million of them took 30 seconds and 4 GB."""
    monkeypatch.setattr("mllama_demo.images.loading.unquote_to_bytes", lambda _: pytest.fail("decoded all the same"))
    for media in ("image/png", "image/png;base64"):
        with pytest.raises(ImageError, match="too many percent signs; base64 is allowed"):
            from_data_url(f"data:{media},{'%00' * 300_001}")


def test_a_percent_encoded_data_url_obeys_the_byte_limit():
    data = encode(corners())
    with pytest.raises(ImageError, match="too large"):
        from_data_url("data:image/png," + quote_from_bytes(data), limits=ImageLimits(max_bytes=len(data) - 1))


def test_images_does_not_pull_in_torch_or_the_network():
    heavy = ("torch", "requests", "gradio", "urllib3")
    code = f"import sys, mllama_demo.images.loading; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
