"""Asking a backend over a server, and waiting for what comes of it."""

from __future__ import annotations

from typing import Any

from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.engine.base import FinishEvent, GenerationRequest
from mllama_demo.engine.remote.backend import OpenAIBackend
from mllama_demo.images.loading import LoadedImage
from mllama_demo.sampling import SamplingParams
from tests.support.events import events_of, text_of


def request(text: str = "What is it?", image: LoadedImage | None = None, **options: Any) -> GenerationRequest:
    sampling = SamplingParams(**options.pop("sampling", {}))
    seen = image and ImageRef(image.digest, image.name, image.width, image.height)
    return GenerationRequest((), sampling, image=image, messages=(Message("user", text, seen or None),), **options)


async def answer(backend: OpenAIBackend, asked: GenerationRequest | None = None) -> tuple[str, FinishEvent]:
    """The text and the last event."""
    events = await events_of(backend, asked or request())
    assert isinstance(events[-1], FinishEvent)
    return text_of(events), events[-1]
