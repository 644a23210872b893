"""Which images cross the boundary between the processes, and which the process of the model has still."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from PIL import Image

from mllama_demo.engine.process import protocol
from mllama_demo.engine.process.protocol import ImageWindow
from mllama_demo.images.loading import LoadedImage
from tests.support.slot_backends import request


def image(name: str, colour: int = 0, side: int = 10) -> LoadedImage:
    return LoadedImage(
        Image.new("RGB", (side, side), (colour, colour, colour)), b"the file of " + name.encode(), "PNG", name, name
    )


@pytest.mark.parametrize("kept", [100, 250, 10**6])
def test_both_sides_know_which_images_are_there(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(protocol, "KEPT_PIXELS", kept)
    ours, theirs = ImageWindow(), ImageWindow()
    images = [image(name, colour) for colour, name in enumerate("abcd")]
    crossed = 0
    for number in (0, 0, 1, 0, 2, 3, 2, 1, 0, 3, 3):
        message = ours.pack(replace(request("r"), image=images[number]))
        crossed += message.image is not None
        got = theirs.unpack(pickle.loads(pickle.dumps(message))).image
        assert got is not None
        assert (got.digest, got.pixels.tobytes()) == (images[number].digest, images[number].pixels.tobytes())
    assert crossed == {100: 9, 250: 7, 10**6: 4}[kept]


def test_an_image_larger_than_the_window_is_kept_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "KEPT_PIXELS", 50)
    window = ImageWindow()
    large = replace(request("r"), image=image("large"))
    assert window.pack(large).image is not None
    assert window.pack(large).image is None


def test_the_file_of_an_image_does_not_cross() -> None:
    message = ImageWindow().pack(replace(request("r"), image=image("a")))
    assert message.image is not None
    assert message.image.data == b""
    assert message.request.image is None


def test_a_request_without_image_passes_unchanged() -> None:
    plain = request("r")
    assert ImageWindow().unpack(ImageWindow().pack(plain)) == plain
