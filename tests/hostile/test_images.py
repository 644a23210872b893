"""Every hostile image is read, or refused with a sentence. None takes a worker process with it that it should not."""

from __future__ import annotations

import warnings

import pytest

from mllama_demo.errors import ImageError
from mllama_demo.images.loading import DEFAULT_LIMITS, load_image
from tests.hostile.image_corpus import CORPUS, METADATA, WHOLE

pytestmark = pytest.mark.timeout(300)
# Files that end their worker by its limits. Every other file costs less.
STOPPED = {"a tiff of 60,000 entries that share 10 MB"}
# Files that are whole, or whose damage does not concern the pixels of the first frame.
READABLE = {
    *WHOLE,
    *METADATA,
    "a png with a workflow",
    "a png with a text of 50 MB",
    "a png with a profile of 50 MB",
    "a png of 200,000 texts",
    "a png of 200,000 empty pixel chunks",
    "a png with 100,000 frames",
    "a png of 49 megapixels in 150 kB",
    "a png of 49 megapixels, 16 bits and alpha",
    "a gif comment of 500,000 blocks",
    "a gif of 100,000 comments",
    "a gif of 100,000 extensions",
    "a gif of 100,000 frames",
    "a jpeg of 90 scans",
    "a jpeg of 300 profiles",
    "a jpeg of 100,000 comments",
}


def test_the_corpus_is_large_and_has_the_files_that_the_tests_name():
    assert len(CORPUS) > 400
    assert set(CORPUS) >= READABLE | STOPPED


@pytest.mark.parametrize("what", CORPUS)
def test_a_hostile_image_is_read_or_refused_by_name(what: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = CORPUS[what]()
    try:
        image = load_image(data, "holiday.jpg")
    except ImageError as error:
        sentence = str(error)
        assert what not in READABLE, sentence
        assert sentence.startswith('The image "holiday.jpg" ')
        assert sentence.endswith(".")
        assert "; " in sentence
        assert "\n" not in sentence
        took_too_much = "takes too long" in sentence or "takes more memory" in sentence
        assert took_too_much == (what in STOPPED), sentence
    else:
        assert image.pixels.mode == "RGB"
        assert 1 <= image.width * image.height <= DEFAULT_LIMITS.max_pixels
        assert max(image.pixels.size) <= DEFAULT_LIMITS.max_aspect_ratio * min(image.pixels.size)
