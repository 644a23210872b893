"""Images of different clients take turns at the real workers."""

from __future__ import annotations

import asyncio
import io

import pytest
from PIL import Image

from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.images.threads import in_image_thread
from mllama_demo.images.worker_pool import WORKER_COUNT
from mllama_demo.runtime.threads import CLIENT

pytestmark = pytest.mark.timeout(120)
FLOOD = 12


def slow_image() -> bytes:
    """A file of few bytes whose decoding takes a good part of a second."""
    file = io.BytesIO()
    Image.new("RGB", (5000, 4000), "navy").save(file, "PNG")
    return file.getvalue()


@pytest.mark.slow
async def test_a_flood_of_slow_images_delays_the_image_of_another_client_by_one_turn() -> None:
    slow, quick, done = slow_image(), io.BytesIO(), []
    Image.new("RGB", (8, 8), "red").save(quick, "PNG")

    async def load(client: str, data: bytes) -> None:
        CLIENT.set((client, ""))
        loaded: LoadedImage = await in_image_thread(load_image, data)
        assert loaded.width
        done.append(client)

    flood = [asyncio.create_task(load("flood", slow)) for _ in range(FLOOD)]
    await asyncio.sleep(0)
    await load("other", quick.getvalue())
    # Those that had begun, one for each worker, may have ended before it, and the last two may end at the same time as it.
    assert done.index("other") <= WORKER_COUNT
    await asyncio.gather(*flood)
    assert done.count("flood") == FLOOD
