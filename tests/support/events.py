"""What a backend sends for a request."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from mllama_demo.engine.base import Backend, Event, FinishEvent, GenerationRequest, TokenEvent


async def events_of(backend: Backend, request: GenerationRequest) -> list[Event]:
    async with aclosing(backend.generate(request)) as events:
        return [event async for event in events]


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, (TokenEvent, FinishEvent)))
