"""Asking a backend over a server, and waiting for what comes of it."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.engine.base import Event, FinishEvent, GenerationRequest, TokenEvent
from mllama_demo.engine.remote.backend import OpenAIBackend
from mllama_demo.images.loading import LoadedImage
from mllama_demo.sampling import SamplingParams


def request(text: str = "What is it?", image: LoadedImage | None = None, **options: Any) -> GenerationRequest:
    sampling = SamplingParams(**options.pop("sampling", {}))
    seen = image and ImageRef(image.digest, image.name, image.width, image.height)
    return GenerationRequest((), sampling, image=image, messages=(Message("user", text, seen or None),), **options)


async def events_of(backend: OpenAIBackend, asked: GenerationRequest) -> list[Event]:
    async with aclosing(backend.generate(asked)) as stream:
        return [event async for event in stream]


async def answer(backend: OpenAIBackend, asked: GenerationRequest | None = None) -> tuple[str, FinishEvent]:
    """The text and the last event."""
    *events, last = await events_of(backend, asked or request())
    assert isinstance(last, FinishEvent)
    return "".join(e.text for e in events if isinstance(e, TokenEvent)) + last.text, last
