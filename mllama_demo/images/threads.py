"""The threads in which event loops have images decoded and fetched. Both may take many seconds for a hostile file or server.

There are as many threads for decoding as workers, so that an image that has its turn waits for no worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from mllama_demo.errors import ServerBusy
from mllama_demo.images.fetch import fetch_bytes
from mllama_demo.images.loading import DEFAULT_LIMITS, ImageLimits, LoadedImage, from_data_url, load_image, longest_turn_s
from mllama_demo.images.worker_pool import BUSY, WORKER_COUNT
from mllama_demo.runtime.threads import WorkThreads

P = ParamSpec("P")
T = TypeVar("T")

_FETCHING_BUSY = "The demo is fetching too many images at the moment. Please try again, or upload the image."
_FETCHING_WAIT_S = 20.0  # longer than fetch_bytes may take

_DECODING = WorkThreads("images", WORKER_COUNT, 64, lambda: ServerBusy(BUSY, "image_threads"), longest_turn_s(DEFAULT_LIMITS))
_FETCHING = WorkThreads("fetching", 8, 64, lambda: ServerBusy(_FETCHING_BUSY, "fetching_threads"), _FETCHING_WAIT_S)


def set_image_limits(limits: ImageLimits) -> None:
    """Has work wait for a thread as long as the slowest image that the limits allow may take, and no longer."""
    _DECODING.wait_s = longest_turn_s(limits)


async def in_image_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a function that loads or makes images. Raises ServerBusy when too many are waiting."""
    return await _DECODING.run(work, *args, **kwargs)


# Has FastAPI run a route in a thread for images, instead of one that all requests share.
image_route = _DECODING.wrap


async def in_fetch_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a function that may wait for another server. Raises ServerBusy when too many are waiting."""
    return await _FETCHING.run(work, *args, **kwargs)


async def image_at(url: str, limits: ImageLimits, allowed_hosts: Sequence[str] | None) -> LoadedImage:
    """The image behind an http, https or data: URL, see fetch.fetch_image. Raises ImageError and ServerBusy."""
    if url.lstrip()[:5].lower() == "data:":
        return await in_image_thread(from_data_url, url.strip(), limits=limits)
    data, name = await in_fetch_thread(fetch_bytes, url, limits, allowed_hosts=allowed_hosts)
    return await in_image_thread(load_image, data, name, limits)
