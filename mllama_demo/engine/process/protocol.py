"""The messages between the web process and the process of the model. Both are this program, so messages are pickled.

Messages are tuples, because one of them is pickled for each step of the model.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import NamedTuple

from mllama_demo.engine.base import BackendInfo, Event, GenerationRequest, State
from mllama_demo.errors import DemoError
from mllama_demo.images.loading import LoadedImage

HEARTBEAT_S = 0.25  # time between two messages of an idle process
KEPT_PIXELS = 2**26  # of recent images, on the side of the model: 192 MiB

# --- to the process of the model -----------------------------------------------------------------------------------------


class Submit(NamedTuple):
    """A request to queue.

    Attributes:
        request: The request, without its image.
        image: The request's image, if the process does not have it yet.
        digest: The digest of the request's image; empty for none.
    """

    request: GenerationRequest
    image: LoadedImage | None
    digest: str


class Cancel(NamedTuple):
    """A request that nobody waits for any more."""

    request_id: str


class Close(NamedTuple):
    """The process is to end in order."""


# --- from the process of the model ---------------------------------------------------------------------------------------


class Admitted(NamedTuple):
    """The model is about to see the request, which is suspect if the process ends now. Sent before the PrefillEvent."""

    request_id: str


class Batch(NamedTuple):
    """What one step of the model made, or the refusal of a request.

    Attributes:
        events: Ids of requests, each with an event or the reason why the request was refused.
        estimated_wait_s: See BackendStatus.
    """

    events: list[tuple[str, Event | DemoError]]
    estimated_wait_s: float | None


class Heartbeat(NamedTuple):
    """The state of the process, every HEARTBEAT_S.

    Attributes:
        state, detail, estimated_wait_s: See BackendStatus.
        step_s: See SteppedBackend.step_seconds.
    """

    state: State
    detail: str
    estimated_wait_s: float | None
    step_s: float | None


class Ready(NamedTuple):
    """The model is loaded. `info` names the device that was chosen."""

    info: BackendInfo


class Down(NamedTuple):
    """The model could not be loaded, or cannot answer any more. The process ends."""

    reason: str


class ImageWindow:
    """The images that the process of the model has. Both sides keep one and make the same changes, in the same order.

    So an image crosses the boundary once, however many requests show it one after the other.
    """

    def __init__(self) -> None:
        self._images: OrderedDict[str, tuple[int, LoadedImage | None]] = OrderedDict()  # by digest, the oldest first
        self._pixels = 0

    def pack(self, request: GenerationRequest) -> Submit:
        """The message for a request."""
        image = request.image
        if image is None:
            return Submit(request, None, "")
        missing = image.digest not in self._images
        self._use(image.digest, image.width * image.height, None)
        # The file of the image is for the web process; a model reads the pixels.
        return Submit(replace(request, image=None), replace(image, data=b"") if missing else None, image.digest)

    def unpack(self, message: Submit) -> GenerationRequest:
        """The request of a message that another window has packed."""
        if not message.digest:
            return message.request
        image = message.image or self._images[message.digest][1]
        assert image is not None
        self._use(message.digest, image.width * image.height, image)
        return replace(message.request, image=image)

    def _use(self, digest: str, pixels: int, image: LoadedImage | None) -> None:
        if digest in self._images:
            self._images.move_to_end(digest)
        else:
            self._images[digest] = pixels, image
            self._pixels += pixels
        while self._pixels > KEPT_PIXELS and len(self._images) > 1:
            _, (freed, _) = self._images.popitem(last=False)
            self._pixels -= freed
