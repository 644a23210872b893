"""Previews without metadata, and images joined side by side."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.images.transforms import preview, side_by_side
from tests.support.image_files import ORIENTATION, corners, encode


def plain(width: int, height: int, color: str = "red", name: str = "a.png") -> LoadedImage:
    return LoadedImage(Image.new("RGB", (width, height), color), b"", "PNG", f"{width} {height} {color}", name)


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


def test_images_side_by_side_are_equally_high_on_white() -> None:
    joined = side_by_side([plain(20, 20, "red", "a.png"), plain(10, 40, "blue", "b.png")])
    assert (joined.name, joined.width, joined.height) == ("a.png + b.png", 40 + 16 + 10, 40)
    assert [joined.pixels.getpixel((x, 20)) for x in (20, 48, 60)] == [(255, 0, 0), (255, 255, 255), (0, 0, 255)]


def test_large_images_become_no_larger_than_the_model_can_use() -> None:
    assert side_by_side([plain(3000, 3000), plain(3000, 1500)]).height == 1120
